use crate::support::*;

#[tokio::test]
async fn a_command_runs_in_the_workspace_with_its_rights_and_variables() {
    let place = Place::new();
    let sandbox = place.create(spec("a")).await;
    let done = run(&*sandbox, sh("pwd; id -u; echo $HOME $IS_SANDBOX; touch x && ls; echo wrong >&2; exit 3")).await;
    assert_eq!(text(&done), "/workspace\n1000\n/home/agent True\nx\n");
    assert_eq!(done.stderr, b"wrong\n");
    assert_eq!(done.exit.code, 3);
    assert_eq!(done.exit.ended_by, None);
}
