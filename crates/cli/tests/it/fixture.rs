//! A small real repository with a failing test, and the script of an agent that mends it.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};
use tempfile::TempDir;

pub struct Fixture {
    pub dir: TempDir,
}

pub fn git(dir: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=Ann", "-c", "user.email=ann@example.com"])
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl Fixture {
    /// `work` is a clone of the bare `origin.git`; its one test fails.
    pub fn new() -> Self {
        let fixture = Self { dir: TempDir::new().unwrap() };
        let work = fixture.work();
        git(fixture.dir.path(), &["init", "-q", "--bare", "-b", "main", "origin.git"]);
        git(fixture.dir.path(), &["init", "-q", "-b", "main", "work"]);
        std::fs::write(work.join("total.py"), "def total(xs):\n    return sum(xs) + 1\n").unwrap();
        std::fs::write(
            work.join("test_total.py"),
            "import unittest\nfrom total import total\n\n\nclass TotalTest(unittest.TestCase):\n    def test_sums(self):\n        self.assertEqual(total([1, 2]), 3)\n",
        )
        .unwrap();
        git(&work, &["add", "-A"]);
        git(&work, &["commit", "-q", "-m", "Start"]);
        git(&work, &["remote", "add", "origin", fixture.origin().to_str().unwrap()]);
        git(&work, &["push", "-q", "origin", "main"]);
        fixture
    }

    pub fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    pub fn origin(&self) -> PathBuf {
        self.dir.path().join("origin.git")
    }

    /// Writes a script and gives its path.
    pub fn script(&self, replies: &Value) -> PathBuf {
        let path = self.dir.path().join("script.json");
        std::fs::write(&path, json!({ "replies": replies }).to_string()).unwrap();
        path
    }

    /// Sees the test fail, mends the code, sees it pass.
    pub fn mending(&self) -> PathBuf {
        let test = "python3 -m unittest -q 2>&1";
        self.script(&json!([
            {"text": "I run the test first.", "calls": [{"name": "shell", "input": {"command": test}}]},
            {"text": "", "expect": "FAILED", "calls": [{"name": "edit", "input": {"path": "total.py", "old": "sum(xs) + 1", "new": "sum(xs)"}}]},
            {"text": "", "calls": [{"name": "shell", "input": {"command": test}}]},
            {"text": "", "expect": "OK", "calls": [{"name": "finish", "input": {"summary": "Stop adding one to the total", "success": true}}]},
        ]))
    }

    /// The binary, with this fixture's own data folder and nothing of the caller's settings.
    pub fn codegen(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_codegen"));
        for (key, _) in std::env::vars() {
            if key.starts_with("CODEGEN_") || key.ends_with("_API_KEY") || key.ends_with("_BASE_URL") {
                command.env_remove(key);
            }
        }
        command
            .env("CODEGEN_DATA_DIR", self.dir.path().join("data"))
            .env("XDG_CONFIG_HOME", self.dir.path().join("config"))
            .current_dir(self.work());
        command
    }
}

pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
