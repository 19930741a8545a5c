//! The commands of `docs/api.md` work as written.
#![allow(clippy::unwrap_used, missing_docs)]

use codegen_store::Phase;

use crate::api::{TOKEN, TestApp};

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_api_s_page_works_as_written() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/api.md")).unwrap();
    let blocks: Vec<&str> = page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 5, "the page has its commands");
    let app = TestApp::new().await;
    for block in blocks {
        let run = tokio::process::Command::new("bash")
            .args(["-euc", block])
            .env("CODEGEN_API_BASE_URL", &app.base)
            .env("CODEGEN_API_TOKEN", TOKEN)
            .env("NO_PROXY", "127.0.0.1")
            .output()
            .await
            .unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        assert!(run.status.success(), "{block}\n{said}");
    }
    let run = app.app.store.run(1, 1).await.unwrap();
    assert!(run.stop_requested || run.phase == Phase::Done, "the commands had their effect");
}
