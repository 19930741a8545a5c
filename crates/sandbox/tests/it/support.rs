#![allow(unsafe_code)] // The zygote is forked before the test harness starts threads.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use codegen_sandbox::{
    Completed, Engine, Exec, Sandbox, Spec,
    local::{Caller, LocalEngine, Zygote},
    unisolated::UnisolatedEngine,
};

static ZYGOTE: OnceLock<Arc<Zygote>> = OnceLock::new();
/// For the test that kills it.
static DOOMED: OnceLock<Arc<Zygote>> = OnceLock::new();

#[ctor::ctor]
fn fork_zygote() {
    for zygote in [&ZYGOTE, &DOOMED] {
        zygote.set(Arc::new(Zygote::fork(caller()).unwrap())).unwrap();
    }
}

/// An engine in a folder of its own, removed with its sandboxes at the end of the test.
pub struct Place {
    pub dir: tempfile::TempDir,
    pub engine: Arc<dyn Engine>,
    local: Option<LocalEngine>,
}

pub fn engine_at(dir: PathBuf) -> LocalEngine {
    LocalEngine::new(Arc::clone(ZYGOTE.get().unwrap()), dir).unwrap()
}

/// An engine whose zygote only one test uses, and its process.
pub fn doomed_engine_at(dir: PathBuf) -> (LocalEngine, i32) {
    let zygote = DOOMED.get().unwrap();
    (LocalEngine::new(Arc::clone(zygote), dir).unwrap(), zygote.pid())
}

pub fn unisolated_at(dir: &Path) -> UnisolatedEngine {
    UnisolatedEngine::new(caller(), dir).unwrap()
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sandboxes = dir.path().join("sandboxes");
        let (engine, last) = (engine_at(sandboxes.clone()), engine_at(sandboxes));
        Self { dir, engine: Arc::new(engine), local: Some(last) }
    }

    pub fn unisolated() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let engine = unisolated_at(&dir.path().join("sandboxes"));
        Self { dir, engine: Arc::new(engine), local: None }
    }

    /// The engine as its next owner has it: a new one where sandboxes outlive it.
    pub fn again(&self) -> Arc<dyn Engine> {
        if self.local.is_some() {
            return Arc::new(engine_at(self.dir.path().join("sandboxes")));
        }
        self.engine.clone()
    }

    pub fn folder(&self, id: &str) -> PathBuf {
        self.dir.path().join("sandboxes").join(id)
    }

    pub async fn create(&self, spec: Spec) -> Arc<dyn Sandbox> {
        self.engine.create(&spec).await.unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    for id in self.engine.inventory().await.unwrap() {
                        self.engine.destroy(&id).await.unwrap();
                    }
                    // Its layers belong to mapped ids, which an ordinary user cannot remove alone.
                    if let Some(local) = &self.local {
                        local.remove_everything().await.unwrap();
                    }
                });
            });
        });
    }
}

pub fn spec(id: &str) -> Spec {
    Spec { id: id.into(), ..Spec::default() }
}

pub fn sh(script: &str) -> Exec {
    Exec {
        argv: ["sh", "-c", script].map(String::from).into(),
        timeout: Some(Duration::from_secs(60)),
        ..Exec::default()
    }
}

pub async fn run(sandbox: &dyn Sandbox, exec: Exec) -> Completed {
    sandbox.start(exec).await.unwrap().complete().await.unwrap()
}

pub fn text(completed: &Completed) -> String {
    String::from_utf8_lossy(&completed.stdout).into_owned()
}

pub fn limited_by_cgroups() -> bool {
    codegen_sandbox::local::probe().have.iter().any(|have| have.contains("cgroup v") && have.contains("memory"))
}

pub fn many_ids() -> bool {
    codegen_sandbox::local::probe().have.iter().any(|have| have.contains("65536 ids"))
}

fn caller() -> Caller {
    Caller::of(|name| std::env::var(name).ok())
}
