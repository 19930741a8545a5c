//! What a command inside must not reach. Each test would succeed in an attack if the line it tests were missing.

use codegen_sandbox::{Exec, Limits, Mount, Spec, User, files};

use crate::support::*;

async fn fails(sandbox: &dyn codegen_sandbox::Sandbox, script: &str) {
    let done = run(sandbox, sh(script)).await;
    assert_ne!(done.exit.code, 0, "{script} went well: {}", text(&done));
}

#[tokio::test]
async fn homes_secrets_and_codegens_data_are_not_there() {
    let place = Place::new();
    let secret = place.dir.path().join("secret");
    std::fs::write(&secret, "x").unwrap();
    let sandbox = place.create(spec("a")).await;
    for path in [
        "/root/.bashrc",
        "/root/.cargo/registry",
        "/root/.npmrc",
        "/etc/shadow",
        "/etc/sudoers",
        "/work",
        "/var/run/docker.sock",
        "/sandboxes",
    ] {
        fails(&*sandbox, &format!("ls {path}")).await;
    }
    fails(&*sandbox, &format!("ls {}", secret.display())).await;
    assert_eq!(text(&run(&*sandbox, sh("ls /home")).await), "agent\n");
    assert!(files::read(&*sandbox, "/etc/shadow", 1000).await.is_err());
    // The server's arguments, a repository's password among them.
    assert_eq!(text(&run(&*sandbox, sh("tr -d '\\0' < /proc/1/cmdline")).await), "codegen-sandbox");
    fails(&*sandbox, "cat /proc/1/environ").await;
    fails(&*sandbox, "ls /proc/1/root/").await;
    fails(&*sandbox, "ls -l /proc/1/fd/").await;
}

#[tokio::test]
async fn only_its_own_processes_exist() {
    let place = Place::new();
    let sandbox = place.create(spec("a")).await;
    assert_eq!(text(&run(&*sandbox, sh("echo /proc/[0-9]*")).await).split_whitespace().count(), 2);
    // With one mapped id the supervisor has the same uid, and the kernel drops the signal without a word.
    for signal in ["-9", "-STOP", "-TERM"] {
        run(&*sandbox, sh(&format!("kill {signal} 1; kill {signal} -1; true"))).await;
    }
    assert_eq!(run(&*sandbox, sh("true")).await.exit.code, 0);
}

#[tokio::test]
async fn mounts_and_namespaces_are_refused() {
    let place = Place::new();
    let sandbox = place.create(spec("a")).await;
    for script in [
        "mount -t tmpfs x /tmp",
        "unshare -Ur true",
        "unshare -n true",
        "umount /proc",
        "chroot / true",
        "mount -o remount,rw /usr",
    ] {
        fails(&*sandbox, script).await;
    }
    let calls = "import ctypes,sys\nlibc=ctypes.CDLL(None,use_errno=True)\n\
        for nr,args in [(435,(0,88)),(321,(0,0,0)),(298,(0,0,-1,-1,0)),(425,(1,0)),(250,(0,-3,0)),(323,(0,)),(304,(0,0,0)),(16,(0,0x5412,0)),(272,(0x10000000,)),(101,(16,1,0,0)),(41,(40,1,0)),(41,(38,5,0)),(41,(17,3,0)),(41,(16,3,16)),(53,(30,1,0,0)),(53,(2,1,0,0)),(41,(2,1,132)),(41,(2,5,0)),(41,(2,6,0)),(41,(2,2,115)),(41,(10,5,0x84)),(41,(2,10,3)),(41,(10,0x80002,115)),(0x40000000|39,())]:\n\
        \x20r=libc.syscall(nr,*args)\n\
        \x20assert r==-1 and ctypes.get_errno() in (1,38), (nr, r, ctypes.get_errno())\nprint('all refused')";
    let exec = Exec { argv: ["/usr/bin/python3", "-c", calls].map(String::from).into(), ..Exec::default() };
    let done = run(&*sandbox, exec).await;
    assert_eq!(text(&done), "all refused\n", "{}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test]
async fn namespaces_are_forbidden_beside_the_filter_too() {
    let place = Place::new();
    let sandbox = place.create(spec("a")).await;
    let done = run(
        &*sandbox,
        sh("cat /proc/sys/user/max_*_namespaces | sort -u; echo 9 > /proc/sys/user/max_user_namespaces"),
    )
    .await;
    assert_eq!((text(&done).as_str(), done.exit.code == 0), ("0\n", false));
}

#[tokio::test]
async fn memory_that_outlives_its_process_does_not_fill_the_limit_for_good() {
    let place = Place::new();
    let limits = Limits { memory_mib: 128, ..Limits::default() };
    let sandbox = place.create(Spec { limits, ..spec("a") }).await;
    let take = "import ctypes\nl=ctypes.CDLL(None)\nl.shmat.restype=ctypes.c_void_p\nfor i in range(20):\n s=l.shmget(0,16<<20,0o1600)\n if s<0: break\n ctypes.memset(l.shmat(s,0,0),1,16<<20)\nprint(i)";
    let exec = Exec { argv: ["python3", "-c", take].map(String::from).into(), ..Exec::default() };
    let done = run(&*sandbox, exec).await;
    if many_ids() {
        assert_eq!(text(&done), "2\n");
    }
    assert_eq!(run(&*sandbox, sh("true")).await.exit.code, 0);
}

#[tokio::test]
async fn what_the_host_has_few_of_is_not_all_taken() {
    let place = Place::new();
    let sandbox = place.create(spec("a")).await;
    let take = "import ctypes,os\nlibc=ctypes.CDLL(None)\nn=0\nwhile libc.inotify_init()>=0: n+=1\nprint(n)\nn=0\ntry:\n while True: os.openpty(); n+=1\nexcept OSError: print(n)";
    let exec = Exec { argv: ["python3", "-c", take].map(String::from).into(), ..Exec::default() };
    assert_eq!(text(&run(&*sandbox, exec).await), "32\n256\n");
}

#[tokio::test]
async fn shared_memory_leaves_room_in_the_memory_limit() {
    let place = Place::new();
    let limits = Limits { memory_mib: 128, ..Limits::default() };
    let sandbox = place.create(Spec { limits, ..spec("a") }).await;
    let fill = "head -c 1G /dev/zero > /dev/shm/x; stat -c %s /dev/shm/x; i=0; while echo > /dev/shm/f$i; do i=$((i+1)); done 2>/dev/null; [ $i -le 65536 ] && echo bounded";
    assert_eq!(text(&run(&*sandbox, sh(fill)).await), "67108864\nbounded\n");
    assert_eq!(run(&*sandbox, sh("rm -r /dev/shm/*")).await.exit.ended_by, None);
}

#[tokio::test]
async fn commands_have_no_capabilities_and_cannot_gain_any() {
    let place = Place::new();
    let sandbox = place.create(spec("a")).await;
    let done = run(&*sandbox, sh("grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp:' /proc/self/status")).await;
    let words: Vec<String> = text(&done).split_whitespace().skip(1).step_by(2).map(String::from).collect();
    assert_eq!(words, ["0000000000000000"; 5].iter().copied().chain(["1", "2"]).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_hosts_files_cannot_be_changed() {
    let place = Place::new();
    let shown = tempfile::tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(shown.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let mount = Mount { source: shown.path().into(), target: "/shown".into(), read_only: true };
    let sandbox = place.create(Spec { mounts: vec![mount], ..spec("a") }).await;
    for script in [
        "touch /usr/x",
        "touch /usr/bin/ls",
        "touch /shown/x",
        "echo 1 > /proc/sys/kernel/core_pattern",
        "echo b > /proc/sysrq-trigger",
        "[ ! -d /proc/pressure ] || : > /proc/pressure/memory",
    ] {
        fails(&*sandbox, script).await;
    }
    if many_ids() {
        // The sandbox's own, and with one id its commands own it.
        fails(&*sandbox, "echo x > /etc/passwd").await;
        fails(&*sandbox, "touch /x").await;
    }
    assert!(run(&*sandbox, sh("cat /proc/kcore /proc/keys")).await.stdout.is_empty());
}

#[tokio::test]
async fn there_is_no_network_without_a_gateway() {
    let place = Place::new();
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let sandbox = place.create(spec("a")).await;
    let ask = format!(
        "import socket\nfor a in ['127.0.0.1','1.1.1.1','169.254.169.254']:\n try:\n  socket.create_connection((a,{port}),2)\n  print('reached',a)\n except OSError: pass"
    );
    let exec = Exec { argv: vec!["/usr/bin/python3".into(), "-c".into(), ask], ..Exec::default() };
    assert_eq!(text(&run(&*sandbox, exec).await), "");
}

#[tokio::test]
async fn one_sandbox_does_not_see_another() {
    let place = Place::new();
    let (a, b) = (place.create(spec("a")).await, place.create(spec("b")).await);
    run(&*a, sh("echo secret > /tmp/x; echo secret > /dev/shm/x; sleep 1000 &")).await;
    assert_eq!(text(&run(&*b, sh("cat /tmp/x /dev/shm/x; pgrep sleep")).await), "");
    place.engine.destroy("a").await.unwrap();
    assert_eq!(run(&*b, sh("true")).await.exit.code, 0);
}

#[tokio::test]
async fn setup_is_root_inside_and_nobody_outside() {
    let place = Place::new();
    let sandbox = place.create(spec("a")).await;
    let setup = |script: &str| Exec { user: User::Setup, ..sh(script) };
    let started =
        sandbox.start(setup("id -u; touch /etc/new && chown 1000:1000 /etc/new && stat -c %u /etc/new")).await;
    if !many_ids() {
        assert!(matches!(started, Err(codegen_sandbox::Error::Start(text)) if text.contains("uidmap")));
        return;
    }
    assert_eq!(text(&started.unwrap().complete().await.unwrap()), "0\n1000\n");
    for script in [
        "mount -t tmpfs x /tmp",
        "touch /usr/x",
        "cat /proc/1/environ | grep .",
        "echo x > /proc/sys/kernel/core_pattern",
        "unshare -m true",
    ] {
        assert_ne!(run(&*sandbox, setup(script)).await.exit.code, 0, "{script}");
    }
}
