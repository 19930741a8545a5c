//! A run whose task panics, beside others.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use codegen_sandbox::{Engine, Error, Fence, Isolation, Sandbox, Spec};
use codegen_store::{Phase, Reason};

use crate::{
    engine,
    run_story::{Scene, finish, result},
};

/// The local engine, which panics once: after it has made a sandbox.
struct PanicsOnce {
    inner: Arc<dyn Engine>,
    has_panicked: AtomicBool,
}

#[async_trait]
impl Engine for PanicsOnce {
    fn isolation(&self) -> Isolation {
        self.inner.isolation()
    }
    async fn create(&self, spec: &Spec) -> Result<Arc<dyn Sandbox>, Error> {
        let sandbox = self.inner.create(spec).await?;
        assert!(self.has_panicked.swap(true, Ordering::SeqCst), "an engine with a bug");
        Ok(sandbox)
    }
    async fn attach(&self, id: &str, fence: Fence) -> Result<Arc<dyn Sandbox>, Error> {
        self.inner.attach(id, fence).await
    }
    async fn destroy(&self, id: &str) -> Result<(), Error> {
        self.inner.destroy(id).await
    }
    async fn inventory(&self) -> Result<Vec<String>, Error> {
        self.inner.inventory().await
    }
    async fn sweep(&self) -> Result<Vec<String>, Error> {
        self.inner.sweep().await
    }
}

fn panics_once(data_dir: &Path) -> Arc<dyn Engine> {
    Arc::new(PanicsOnce { inner: engine::engine(data_dir), has_panicked: AtomicBool::new(false) })
}

#[tokio::test]
async fn a_panic_ends_its_run_with_a_sentence_and_nothing_else() {
    let scene = Scene::made(panics_once, |_| {}).await;
    let repo = scene.repo(&scene.origin()).await;
    let (unlucky, other) =
        (scene.queue(Some(&repo), &[finish("One.")]).await, scene.queue(Some(&repo), &[finish("Two.")]).await);
    let working = tokio::spawn(codegen_server::worker::run(scene.app.clone()));
    for run in [&unlucky, &other] {
        scene.until(run, async |run| run.phase == Phase::Done).await;
    }
    let ended =
        [scene.app.store.run_by_id(unlucky.id).await.unwrap(), scene.app.store.run_by_id(other.id).await.unwrap()];
    let failed = ended.iter().find(|run| run.reason == Some(Reason::Failed)).unwrap();
    let complete = ended.iter().find(|run| run.reason == Some(Reason::Complete)).unwrap();
    assert!(result(failed).starts_with("codegen itself failed on this run"), "{}", result(failed));
    assert!(failed.error_cause.as_deref().unwrap().contains("panicked"), "{:?}", failed.error_cause);
    assert_ne!(failed.id, complete.id);
    let statuses = scene.entries(failed, "status").await;
    assert_eq!(statuses.last().unwrap()["status"], "FAILED", "{statuses:?}");
    scene.app.shutdown.cancel();
    working.await.unwrap().unwrap();
}
