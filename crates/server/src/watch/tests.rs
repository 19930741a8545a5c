//! What the task of a watched run makes of its news.
#![allow(clippy::unwrap_used)]
use codegen_store::{NewRun, NewUser, Reason};

use super::*;

#[tokio::test]
async fn a_run_that_ended_before_the_news_were_read_ends_though_words_stand_between_the_news() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    let (org, user) = store.bootstrap("Acme", NewUser::default(), "hash", 1).await.unwrap().unwrap();
    store.register_worker("here", "", 1).await.unwrap();
    let run = store.create_run(org.id, NewRun { user_id: user.id, ..NewRun::default() }, 1).await.unwrap();
    let claim = store.claim_run_by_id(run.id, "here", 1).await.unwrap().unwrap().claim();
    store.finish_run(&claim, Reason::Complete, "done", None, 1).await.unwrap();

    let (frames, mut viewer) = broadcast::channel(RING);
    let watch = Arc::new(Watch {
        run_id: run.id,
        frames,
        news: Mutex::default(),
        wake: Notify::new(),
        left: CancellationToken::new(),
    });
    watch.tell(News::Grown);
    watch.live("text", &json!({}));
    watch.tell(News::Grown);
    let feeding = tokio::spawn(feed(watch, store, CancellationToken::new(), 0));
    assert!(viewer.recv().await.unwrap().is_end);
    feeding.abort();
}
