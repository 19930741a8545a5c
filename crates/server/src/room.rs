//! Room on the disk of a data directory: how much there must be for runs to work, and a little that is kept for the few words
//! that must be written where there is none.

use std::{fs, os::fd::AsFd as _, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use rustix::fs::FallocateFlags;
use tokio::net::TcpListener;
use tracing::warn;

/// Free bytes without which no run is begun, and none goes on that met a full disk.
pub const ROOM: u64 = 32 << 20;
/// Enough to open the database and to write that a run waits, or shall stop.
const RESERVE: u64 = 2 << 20;
const FILE: &str = "reserve";

/// Whether there is room for runs; also where the file system does not say.
#[must_use]
pub fn is_there(data_dir: &Path) -> bool {
    rustix::fs::statvfs(data_dir).map_or(true, |stat| stat.f_bavail.saturating_mul(stat.f_frsize) >= ROOM)
}

/// Whether the disk of the data directory is full, whoever met it.
#[must_use]
pub fn is_full(error: &anyhow::Error) -> bool {
    error.chain().any(|e| {
        matches!(e.downcast_ref(), Some(codegen_store::Error::Full))
            || e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::StorageFull)
            // Git, migrations and the sandbox's own programs only say it.
            || ["No space left on device", "database or disk is full"].iter().any(|words| e.to_string().contains(words))
    })
}

/// Takes the reserve, where there is room and none yet.
pub fn take_reserve(data_dir: &Path) {
    let path = data_dir.join(FILE);
    if path.exists() || !is_there(data_dir) {
        return;
    }
    let taken = fs::File::create(&path).and_then(|file| {
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, RESERVE)?;
        Ok(())
    });
    if let Err(error) = taken {
        warn!(%error, "keeping a little room for when the disk is full");
        fs::remove_file(&path).ok(); // An empty one would pass for the reserve.
    }
}

/// Gives the reserve back to the file system; false where there was none.
pub fn give_reserve(data_dir: &Path) -> bool {
    fs::remove_file(data_dir.join(FILE)).is_ok()
}

/// Returns once there is room. Whoever asks meanwhile is told so, where this process listens.
///
/// # Errors
/// When answering breaks off by itself.
pub async fn wait(data_dir: &Path, listener: Option<&TcpListener>) -> Result<()> {
    let data_dir = data_dir.to_owned();
    let there = async move {
        while !is_there(&data_dir) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let Some(listener) = listener else {
        there.await;
        return Ok(());
    };
    // One of its own, for serving takes the listener.
    let own = listener.as_fd().try_clone_to_owned().map(std::net::TcpListener::from).and_then(TcpListener::from_std);
    crate::api::refuse(own.context("sharing the listener")?, there).await
}
