//! The local engine for tests: its zygote is forked before the test harness starts its threads.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use codegen_sandbox::{
    Engine,
    local::{Caller, LocalEngine, Zygote},
};
use codegen_server::Means;

static ZYGOTE: OnceLock<Arc<Zygote>> = OnceLock::new();

#[ctor::ctor]
fn fork() {
    ZYGOTE.set(Arc::new(Zygote::fork(caller()).unwrap())).unwrap();
}

/// An engine over a data directory's sandboxes; all engines of the process share one zygote.
pub fn engine(data_dir: &Path) -> Arc<dyn Engine> {
    let zygote = ZYGOTE.get().unwrap().clone();
    Arc::new(LocalEngine::new(zygote, data_dir.join("sandboxes")).unwrap())
}

/// The engine of `--unsafe-no-sandbox`, as the server makes it.
pub fn unisolated(data_dir: &Path) -> Arc<dyn Engine> {
    codegen_server::engine::engine(Means::Unisolated(caller()), data_dir).unwrap()
}

fn caller() -> Caller {
    Caller::of(|name| std::env::var(name).ok())
}
