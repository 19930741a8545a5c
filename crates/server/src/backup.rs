//! One file that a data directory can be made from again, taken while the server runs.
//!
//! It holds the database as it is at one moment and, unless left out, the mirrors: an origin has most of a mirror too, but
//! not the commits of runs that were not pushed. It holds neither the settings nor the key of the secrets, which are for
//! the operator to keep elsewhere: whoever finds a backup shall not be able to read them.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use codegen_store::{DATABASE, Store};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{disk, forge::git::Mirror, incarnation};

const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";

/// What is in a backup; its last entry, so that one that was cut off has none.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    codegen: String,
    created_at: i64,
    incarnation: i64,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    name: String,
    bytes: u64,
    sha256: String,
}

/// A backup that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Made {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Mirrors in it.
    pub mirrors: usize,
}

/// A data directory that was made from a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// When the backup was made, unix milliseconds.
    pub created_at: i64,
    /// Of the new directory.
    pub incarnation: i64,
    /// Mirrors taken out.
    pub mirrors: usize,
    /// Runs that go on at the next start.
    pub live_runs: Vec<i64>,
    /// Secrets that need a key which no backup holds.
    pub secrets: usize,
}

/// Copies what is read, and hashes it on the way.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
    bytes: u64,
}

impl<R> Hashing<R> {
    fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new(), bytes: 0 }
    }

    fn entry(self, name: &str) -> Entry {
        let sha256 = self.hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        Entry { name: name.to_owned(), bytes: self.bytes, sha256 }
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(buffer.get(..read).unwrap_or_default());
        self.bytes += read as u64;
        Ok(read)
    }
}

/// Writes a backup into a new file, or into a new file of a folder; `with_mirrors` says whether mirrors are in it.
///
/// # Errors
/// A sentence on what is in the way. No half-written file is left.
pub async fn backup(data_dir: &Path, into: &Path, with_mirrors: bool, now: i64) -> Result<Made> {
    ensure!(data_dir.join(DATABASE).exists(), "there is no data directory of codegen at {}", data_dir.display());
    let path = if into.is_dir() {
        let time = jiff::Timestamp::from_millisecond(now).context("reading the clock")?;
        into.join(format!("codegen-{}.tar", time.strftime("%Y%m%d-%H%M%S")))
    } else {
        into.to_owned()
    };
    ensure!(!path.exists(), "{} is there already; a backup replaces nothing", path.display());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mirrors = if with_mirrors { disk::mirrors(data_dir).await? } else { Vec::new() };
    let database: u64 =
        [DATABASE.to_owned(), format!("{DATABASE}-wal")].iter().map(|f| disk::size(&data_dir.join(f))).sum();
    // A part is written beside the file first, so the largest of them is there twice.
    let largest = mirrors.iter().map(|m| m.bytes).max().unwrap_or(0).max(database);
    let needed = database + mirrors.iter().map(|m| m.bytes).sum::<u64>() + largest;
    let free = disk::free(folder)?;
    ensure!(
        free > needed,
        "a backup may need {} and {} has {} free",
        disk::human(needed),
        folder.display(),
        disk::human(free)
    );

    // Removed with all that is in it, whatever happens.
    let scratch = tempfile::Builder::new()
        .prefix(".codegen-backup-")
        .tempdir_in(folder)
        .with_context(|| format!("making a folder in {}", folder.display()))?;
    let part = scratch.path().join("part");
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part).context("making the backup")?;
    let mut archive = tar::Builder::new(file);
    let mut manifest = Manifest {
        format: FORMAT,
        codegen: env!("CARGO_PKG_VERSION").to_owned(),
        created_at: now,
        incarnation: incarnation::read(data_dir)?,
        entries: Vec::new(),
    };
    let copy = scratch.path().join("copy");
    codegen_store::backup(data_dir, &copy).await.context("copying the database")?;
    manifest.entries.push(append(&mut archive, DATABASE, &copy)?);
    // After the database: what its rows say is in a mirror is there by now.
    for repo_id in mirrors.iter().map(|m| m.repo_id) {
        if Mirror::of(data_dir, repo_id).bundle(&copy).await.with_context(|| format!("copying mirror {repo_id}"))? {
            manifest.entries.push(append(&mut archive, &format!("mirrors/{repo_id}.bundle"), &copy)?);
        }
    }
    let text = serde_json::to_vec_pretty(&manifest)?;
    append_bytes(&mut archive, MANIFEST, text.len() as u64, &mut text.as_slice())?;
    let file = archive.into_inner().context("ending the backup")?;
    file.sync_all().context("writing the backup to the disk")?;
    fs::rename(&part, &path).with_context(|| format!("naming the backup {}", path.display()))?;
    File::open(folder).and_then(|folder| folder.sync_all()).context("writing the backup's name to the disk")?;
    let bytes = fs::metadata(&path)?.len();
    Ok(Made { path, bytes, mirrors: manifest.entries.len() - 1 })
}

/// Moves a file into the archive.
fn append(archive: &mut tar::Builder<File>, name: &str, path: &Path) -> Result<Entry> {
    let file = File::open(path).with_context(|| format!("reading the copy of {name}"))?;
    let bytes = file.metadata()?.len();
    let mut content = Hashing::new(file);
    append_bytes(archive, name, bytes, &mut content)?;
    fs::remove_file(path).with_context(|| format!("removing the copy of {name}"))?;
    Ok(content.entry(name))
}

fn append_bytes(archive: &mut tar::Builder<File>, name: &str, bytes: u64, content: &mut impl Read) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes);
    header.set_mode(0o600);
    archive.append_data(&mut header, name, content).with_context(|| format!("writing {name} into the backup"))
}

/// Makes a data directory from a backup. It is begun beside and takes its name when it is whole, and it begins a new
/// incarnation, so that its server outranks the one that the backup was taken from.
///
/// # Errors
/// A sentence on what is in the way. Nothing is left at `data_dir` then.
pub async fn restore(file: &Path, data_dir: &Path, now: i64) -> Result<Restored> {
    let data_dir = std::path::absolute(data_dir).context("finding the data directory")?;
    ensure!(
        !codegen_store::is_locked(&data_dir),
        "a codegen is using {}: a backup is restored into a new directory",
        data_dir.display()
    );
    ensure!(
        disk::entries(&data_dir).is_empty() && (!data_dir.exists() || data_dir.is_dir()),
        "{} is not an empty directory; a backup is restored into a new one",
        data_dir.display()
    );
    let folder = data_dir.parent().context("the data directory is no place for one")?;
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let size = fs::metadata(file).with_context(|| format!("reading {}", file.display()))?.len();
    let free = disk::free(folder)?;
    ensure!(
        free > size.saturating_mul(2),
        "restoring may need {} and {} has {} free",
        disk::human(size.saturating_mul(2)),
        folder.display(),
        disk::human(free)
    );
    let scratch = tempfile::Builder::new()
        .prefix(".codegen-restore-")
        .tempdir_in(folder)
        .with_context(|| format!("making a folder in {}", folder.display()))?;
    let new = scratch.path().join("data");
    fs::DirBuilder::new().mode(0o700).create(&new)?;
    let (manifest, found) = unpack(file, scratch.path(), &new)?;
    ensure!(manifest.format == FORMAT, "{} is of a newer codegen ({})", file.display(), manifest.codegen);
    ensure!(
        manifest.entries == found && found.iter().any(|entry| entry.name == DATABASE),
        "{} is damaged: what is in it is not what its manifest says",
        file.display()
    );
    let mut mirrors = 0;
    for repo_id in found.iter().filter_map(|entry| mirror_of(&entry.name)) {
        let bundle = scratch.path().join(format!("{repo_id}.bundle"));
        Mirror::of(&new, repo_id).unbundle(&bundle).await.with_context(|| format!("restoring mirror {repo_id}"))?;
        fs::remove_file(&bundle)?;
        mirrors += 1;
    }
    let store = Store::open(&new).await.context("opening the restored database")?;
    let time = jiff::Timestamp::from_millisecond(manifest.created_at).context("the backup's time is none")?;
    let notice = format!(
        "The data directory was restored from a backup of {}. What this run did after that is not in its trace.",
        time.strftime("%Y-%m-%d %H:%M:%S UTC")
    );
    let live_runs = store.tell_live_runs(&notice, now).await?;
    let secrets = store.secrets().await?.len();
    store.close().await;
    let incarnation = incarnation::grow(&new, manifest.incarnation, now)?;
    fs::rename(&new, &data_dir).with_context(|| format!("naming the new directory {}", data_dir.display()))?;
    File::open(folder).and_then(|folder| folder.sync_all()).context("writing the directory's name to the disk")?;
    Ok(Restored { created_at: manifest.created_at, incarnation, mirrors, live_runs, secrets })
}

/// Takes the known entries out, the database to its place and bundles beside; names in the archive are never paths here.
fn unpack(file: &Path, scratch: &Path, new: &Path) -> Result<(Manifest, Vec<Entry>)> {
    let reading = || format!("reading {}", file.display());
    let mut archive = tar::Archive::new(File::open(file).with_context(reading)?);
    let mut found = Vec::new();
    for entry in archive.entries().with_context(reading)? {
        let entry = entry.with_context(reading)?;
        let name = entry.path().with_context(reading)?.to_string_lossy().into_owned();
        let mut content = Hashing::new(entry);
        if name == MANIFEST {
            let manifest = serde_json::from_reader(content).with_context(|| format!("{MANIFEST} cannot be read"))?;
            return Ok((manifest, found));
        }
        let to = match mirror_of(&name) {
            Some(repo_id) => scratch.join(format!("{repo_id}.bundle")),
            None if name == DATABASE => new.join(DATABASE),
            None => bail!("{} is no backup of codegen: it has an entry {name:?}", file.display()),
        };
        let mut to =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&to).context("writing an entry")?;
        io::copy(&mut content, &mut to).with_context(|| format!("taking {name} out of the backup"))?;
        to.flush().and_then(|()| to.sync_all()).with_context(|| format!("writing {name} to the disk"))?;
        found.push(content.entry(&name));
    }
    bail!("{} is cut off: it has no manifest", file.display())
}

fn mirror_of(name: &str) -> Option<i64> {
    name.strip_prefix("mirrors/")?.strip_suffix(".bundle")?.parse().ok()
}
