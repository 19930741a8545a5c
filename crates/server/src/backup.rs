//! One file that a data directory can be made from again, taken while the server runs.
//!
//! It holds the database as it is at one moment, as a file of SQLite's wherever it is, and the mirrors, unless the database
//! alone is wanted: an origin has most of a mirror too, but not the commits of runs that were not pushed. It holds neither
//! the settings nor the key of the secrets, which are for the operator to keep elsewhere: whoever finds a backup shall not be
//! able to read them.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use codegen_store::{At, DATABASE, DirLock, Progress, Store};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{config::Config, database::Tell, disk, forge::git::Mirror, incarnation};

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

/// What is to be in a backup, or to be taken out of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// The database and the mirrors.
    Whole,
    /// The database alone.
    Database,
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

/// What was made from a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// When the backup was made, unix milliseconds.
    pub created_at: i64,
    /// Of the data directory.
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

/// Writes a backup into a new file, or into a new file of a folder.
///
/// # Errors
/// A sentence on what is in the way. No half-written file is left.
pub async fn backup(config: &Config, into: &Path, contents: Contents, now: i64, tell: Tell<'_>) -> Result<Made> {
    let data_dir = &config.data_dir;
    let file = data_dir.join(DATABASE);
    let at = config.database_url.as_ref().map_or(At::File(&file), |url| At::Url(url.expose_secret()));
    if let At::File(file) = at {
        ensure!(file.exists(), "there is no data directory of codegen at {}", data_dir.display());
    }
    let path = if into.is_dir() {
        let time = jiff::Timestamp::from_millisecond(now).context("reading the clock")?;
        into.join(format!("codegen-{}.tar", time.strftime("%Y%m%d-%H%M%S")))
    } else {
        into.to_owned()
    };
    ensure!(!path.exists(), "{} is there already; a backup replaces nothing", path.display());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mirrors = match contents {
        Contents::Whole => disk::mirrors(data_dir).await?,
        Contents::Database => Vec::new(),
    };
    // What PostgreSQL's will take as a file is not known before it is there.
    let database: u64 = match at {
        At::File(file) => disk::size(file) + disk::size(&data_dir.join(format!("{DATABASE}-wal"))),
        At::Url(_) => 0,
    };
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
    codegen_store::backup(at, &copy, tell).await.context("copying the database")?;
    manifest.entries.push(append(&mut archive, DATABASE, &copy)?);
    // After the database: what its rows say is in a mirror is there by now.
    for (done, repo_id) in (1..).zip(mirrors.iter().map(|m| m.repo_id)) {
        if Mirror::of(data_dir, repo_id).bundle(&copy).await.with_context(|| format!("copying mirror {repo_id}"))? {
            manifest.entries.push(append(&mut archive, &format!("mirrors/{repo_id}.bundle"), &copy)?);
        }
        tell(Progress { what: "mirrors", done, of: mirrors.len() as i64 });
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

/// Makes a data directory from a backup, and fills the database of the settings where that is PostgreSQL's. The directory is
/// begun beside and takes its name when it is whole, and it begins a new incarnation, so that its server outranks the one
/// that the backup was taken from.
///
/// # Errors
/// A sentence on what is in the way. Nothing is left at the data directory then, nor in the database.
pub async fn restore(config: &Config, file: &Path, now: i64, tell: Tell<'_>) -> Result<Restored> {
    let data_dir = std::path::absolute(&config.data_dir).context("finding the data directory")?;
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
    let opened = Opened::unpack(file, folder, Contents::Whole)?;
    for (done, repo_id) in (1..).zip(&opened.mirrors) {
        let bundle = opened.scratch.path().join(format!("{repo_id}.bundle"));
        let mirror = Mirror::of(&opened.new, *repo_id);
        mirror.unbundle(&bundle).await.with_context(|| format!("restoring mirror {repo_id}"))?;
        fs::remove_file(&bundle)?;
        tell(Progress { what: "mirrors", done, of: opened.mirrors.len() as i64 });
    }
    let (live_runs, secrets) = opened.begin_again(now).await?;
    let incarnation = incarnation::grow(&opened.new, opened.manifest.incarnation, now)?;
    if let Some(url) = &config.database_url {
        codegen_store::copy(&opened.new.join(DATABASE), url.expose_secret(), tell).await?;
        fs::remove_file(opened.new.join(DATABASE))?;
    }
    fs::rename(&opened.new, &data_dir).with_context(|| format!("naming the new directory {}", data_dir.display()))?;
    File::open(folder).and_then(|folder| folder.sync_all()).context("writing the directory's name to the disk")?;
    Ok(Restored {
        created_at: opened.manifest.created_at,
        incarnation,
        mirrors: opened.mirrors.len(),
        live_runs,
        secrets,
    })
}

/// Fills an empty database from a backup: the one of the settings, or one in a data directory that has none. The rest of the
/// directory stays as it is, but for its incarnation, which is a new one.
///
/// # Errors
/// A sentence on what is in the way. Nothing is left in the database then.
pub async fn restore_database(config: &Config, file: &Path, now: i64, tell: Tell<'_>) -> Result<Restored> {
    let data_dir = &config.data_dir;
    let lock = DirLock::make(data_dir)?;
    let database = data_dir.join(DATABASE);
    ensure!(
        config.database_url.is_some() || !database.exists(),
        "{} is there already: a database is restored where there is none",
        database.display()
    );
    let opened = Opened::unpack(file, data_dir, Contents::Database)?;
    let (live_runs, secrets) = opened.begin_again(now).await?;
    // Before the database is there: what happens between the two makes a life that nobody lives.
    let earlier = opened.manifest.incarnation.max(incarnation::read(data_dir)?);
    let incarnation = incarnation::grow(data_dir, earlier, now)?;
    let restored = opened.new.join(DATABASE);
    match &config.database_url {
        Some(url) => drop(codegen_store::copy(&restored, url.expose_secret(), tell).await?),
        None => {
            fs::rename(&restored, &database).with_context(|| format!("naming {}", database.display()))?;
            File::open(data_dir).and_then(|folder| folder.sync_all()).context("writing its name to the disk")?;
        }
    }
    drop(lock);
    Ok(Restored { created_at: opened.manifest.created_at, incarnation, mirrors: 0, live_runs, secrets })
}

/// A backup, taken apart into a new directory.
struct Opened {
    /// Removed with all that is in it, whatever happens.
    scratch: tempfile::TempDir,
    new: PathBuf,
    manifest: Manifest,
    /// Repositories whose mirrors are beside it as bundles.
    mirrors: Vec<i64>,
}

impl Opened {
    /// Takes a backup apart in a folder.
    fn unpack(file: &Path, folder: &Path, contents: Contents) -> Result<Self> {
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
        let (manifest, found) = unpack(file, scratch.path(), &new, contents)?;
        ensure!(manifest.format == FORMAT, "{} is of a newer codegen ({})", file.display(), manifest.codegen);
        ensure!(
            manifest.entries == found && found.iter().any(|entry| entry.name == DATABASE),
            "{} is damaged: what is in it is not what its manifest says",
            file.display()
        );
        let mirrors = found.iter().filter_map(|entry| mirror_of(&entry.name)).collect();
        Ok(Self { scratch, new, manifest, mirrors })
    }

    /// Brings the database to this version and tells its live runs where they are; gives those, and how many secrets there are.
    async fn begin_again(&self, now: i64) -> Result<(Vec<i64>, usize)> {
        let store = Store::open(&self.new).await.context("opening the restored database")?;
        let time = jiff::Timestamp::from_millisecond(self.manifest.created_at).context("the backup's time is none")?;
        let notice = format!(
            "The data directory was restored from a backup of {}. What this run did after that is not in its trace.",
            time.strftime("%Y-%m-%d %H:%M:%S UTC")
        );
        let live_runs = store.tell_live_runs(&notice, now).await?;
        let secrets = store.secrets().await?.len();
        store.close().await;
        Ok((live_runs, secrets))
    }
}

/// Takes the known entries out, the database to its place and bundles beside; names in the archive are never paths here.
fn unpack(file: &Path, scratch: &Path, new: &Path, contents: Contents) -> Result<(Manifest, Vec<Entry>)> {
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
            // Read for what the manifest says of it.
            Some(_) if contents == Contents::Database => {
                io::copy(&mut content, &mut io::sink()).with_context(reading)?;
                found.push(content.entry(&name));
                continue;
            }
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
