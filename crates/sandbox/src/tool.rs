//! The inside half of file operations: runs in a sandbox, with a command's rights, JSON on standard input and output.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use grep_regex::RegexMatcherBuilder;
use grep_searcher::{BinaryDetection, SearcherBuilder, sinks::Lossy};
use serde::{Deserialize, Serialize};

/// Input of `glob`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Glob {
    pub folder: PathBuf,
    pub pattern: String,
    pub most: usize,
}

/// Input of `grep`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Grep {
    pub folder: PathBuf,
    pub pattern: String,
    pub files: Option<String>,
    pub ignore_case: bool,
    pub most: usize,
}

/// Input of `read`; `write` has the same followed by a NUL and the content.
#[derive(Debug, Serialize, Deserialize)]
pub struct Target {
    pub path: PathBuf,
    pub most: u64,
}

/// A line that matched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// As found below the folder that was searched.
    pub path: String,
    /// From 1.
    pub line: u64,
    /// Without its end, cut at 2000 bytes.
    pub text: String,
}

/// The program name under which it is asked for.
pub const PROGRAM: &str = "codegen-tool";

/// Runs one operation; the exit code says whether it went well, the words are on standard error.
pub fn run(operation: &str) -> i32 {
    let mut input = Vec::new();
    let result = io::stdin().read_to_end(&mut input).and_then(|_| operate_with(operation, &input, Path::to_owned));
    match result.and_then(|bytes| io::stdout().write_all(&bytes).and_then(|()| io::stdout().flush())) {
        Ok(()) => 0,
        Err(error) => {
            eprint!("{error}");
            exit_code(&error)
        }
    }
}

/// 2 for what is not there, else 1.
pub fn exit_code(error: &io::Error) -> i32 {
    if error.kind() == io::ErrorKind::NotFound { 2 } else { 1 }
}

/// One operation in this process, with paths put where `place` says.
pub fn operate_with(operation: &str, input: &[u8], place: impl Fn(&Path) -> PathBuf) -> io::Result<Vec<u8>> {
    match operation {
        "read" => read(input, place),
        "write" => write(input, place),
        "glob" => glob(input, place),
        "grep" => grep(input, place),
        _ => Err(io::Error::other(format!("unknown operation {operation}"))),
    }
}

fn read(input: &[u8], place: impl Fn(&Path) -> PathBuf) -> io::Result<Vec<u8>> {
    let mut target: Target = serde_json::from_slice(input)?;
    target.path = place(&target.path);
    let meta = fs::metadata(&target.path)?;
    if meta.is_dir() {
        return Err(io::Error::other("is a folder, not a file"));
    }
    if !meta.is_file() {
        return Err(io::Error::other("is not a regular file"));
    }
    if meta.len() > target.most {
        return Err(io::Error::other(format!(
            "has {} bytes, more than the {} that are read at once",
            meta.len(),
            target.most
        )));
    }
    let mut bytes = Vec::new();
    fs::File::open(&target.path)?.take(target.most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn write(input: &[u8], place: impl Fn(&Path) -> PathBuf) -> io::Result<Vec<u8>> {
    let end = input.iter().position(|byte| *byte == 0).ok_or_else(|| io::Error::other("no content"))?;
    let (head, content) = input.split_at(end);
    let mut target: Target = serde_json::from_slice(head)?;
    target.path = place(&target.path);
    if let Some(parent) = target.path.parent() {
        fs::create_dir_all(parent)?;
    }
    if fs::metadata(&target.path).is_ok_and(|meta| !meta.is_file()) {
        return Err(io::Error::other("is not a regular file"));
    }
    // Written in place, so that links and permissions stay; without waiting for a reader, should it have become a pipe.
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&target.path)?;
    file.write_all(content.get(1..).unwrap_or_default())?;
    Ok(Vec::new())
}

/// Files below a folder that git would track, newest first.
fn walk(folder: &Path) -> impl Iterator<Item = ignore::DirEntry> {
    ignore::WalkBuilder::new(folder)
        .hidden(false)
        .require_git(false)
        .filter_entry(|entry| entry.file_name() != ".git")
        .build()
        .flatten()
        .filter(|entry| entry.file_type().is_some_and(|kind| kind.is_file()))
}

fn matcher(pattern: &str) -> io::Result<globset::GlobMatcher> {
    // A pattern without a folder means any folder, as in .gitignore.
    let pattern =
        if pattern.contains('/') { pattern.trim_start_matches("./").to_owned() } else { format!("**/{pattern}") };
    Ok(globset::GlobBuilder::new(&pattern).literal_separator(true).build().map_err(io::Error::other)?.compile_matcher())
}

fn glob(input: &[u8], place: impl Fn(&Path) -> PathBuf) -> io::Result<Vec<u8>> {
    let mut ask: Glob = serde_json::from_slice(input)?;
    ask.folder = place(&ask.folder);
    fs::metadata(&ask.folder)?;
    let matcher = matcher(&ask.pattern)?;
    let mut found: Vec<(std::time::SystemTime, String)> = walk(&ask.folder)
        .filter_map(|entry| {
            let path = entry.path().strip_prefix(&ask.folder).ok()?;
            let changed = entry.metadata().ok()?.modified().ok()?;
            matcher.is_match(path).then(|| (changed, path.to_string_lossy().into_owned()))
        })
        .collect();
    found.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    found.truncate(ask.most);
    Ok(serde_json::to_vec(&found.into_iter().map(|(_, path)| path).collect::<Vec<_>>())?)
}

fn grep(input: &[u8], place: impl Fn(&Path) -> PathBuf) -> io::Result<Vec<u8>> {
    let mut ask: Grep = serde_json::from_slice(input)?;
    ask.folder = place(&ask.folder);
    let meta = fs::metadata(&ask.folder)?;
    let regex =
        RegexMatcherBuilder::new().case_insensitive(ask.ignore_case).line_terminator(Some(b'\n')).build(&ask.pattern);
    let regex = regex.map_err(io::Error::other)?;
    let files = ask.files.as_deref().map(matcher).transpose()?;
    let mut searcher = SearcherBuilder::new().line_number(true).binary_detection(BinaryDetection::quit(0)).build();
    let mut found: Vec<Match> = Vec::new();
    let mut paths: Vec<PathBuf> = if meta.is_file() {
        vec![ask.folder.clone()]
    } else {
        walk(&ask.folder).map(ignore::DirEntry::into_path).collect()
    };
    paths.sort();
    for path in paths {
        let name = path.strip_prefix(&ask.folder).ok().filter(|name| !name.as_os_str().is_empty()).unwrap_or(&path);
        if files.as_ref().is_some_and(|files| !files.is_match(name)) {
            continue;
        }
        let sink = Lossy(|line, text: &str| {
            let text = text.trim_end_matches(['\n', '\r']);
            let cut = text.floor_char_boundary(2000);
            let text = text.get(..cut).unwrap_or_default().to_owned();
            found.push(Match { path: name.to_string_lossy().into_owned(), line, text });
            Ok(found.len() < ask.most)
        });
        searcher.search_path(&regex, &path, sink).ok(); // a file that cannot be read has no matches
        if found.len() >= ask.most {
            break;
        }
    }
    Ok(serde_json::to_vec(&found)?)
}
