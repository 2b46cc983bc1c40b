//! A store of each kind, and the tool in a process.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tempfile::TempDir;

/// The longest time that a test waits for an event.
pub(crate) const SOON: std::time::Duration = std::time::Duration::from_secs(60);

/// A store, and the name of a bucket that no other test uses.
pub(crate) struct World {
    pub(crate) folder: TempDir,
    pub(crate) bucket: String,
    store: Vec<String>,
    url: Option<String>,
}

/// The output of the tool.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl World {
    /// A store in memory. Each process loads and saves its content.
    pub(crate) fn memory() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fixture = folder.path().join("fixture.ndjson").display().to_string();
        Self::new(folder, vec!["--fixture".into(), fixture, "--fixture-save".into()], None)
    }

    pub(crate) fn file() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file:{}", folder.path().join("store.kv").display());
        Self::new(folder, vec!["--url".into(), url.clone()], Some(url))
    }

    pub(crate) fn server() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let url = runtime.block_on(async { harness::shared().await.url() });
        Self::new(tempfile::tempdir().unwrap(), vec!["--url".into(), url.clone()], Some(url))
    }

    fn new(folder: TempDir, store: Vec<String>, url: Option<String>) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let bucket = format!("b{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        Self { folder, bucket, store, url }
    }

    /// The URL of the store. Not in memory.
    pub(crate) fn url(&self) -> &str {
        self.url.as_deref().expect("the store has a URL")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns a command of the tool. `$B` in an argument is the bucket.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = tool(self.folder.path());
        command.args(&self.store).args(arguments.iter().map(|argument| argument.replace("$B", &self.bucket)));
        command
    }

    /// Runs a command without input.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        run(self.command(arguments), b"")
    }

    /// Runs a command with an input.
    pub(crate) fn feed(&self, arguments: &[&str], input: &[u8]) -> Ran {
        run(self.command(arguments), input)
    }

    /// Runs a command that succeeds, and returns its output.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
        ran.out
    }

    /// Runs a command that succeeds, and returns its output as JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let out = self.ok(&[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}"))
    }

    /// Imports these entries into the bucket. The header has these settings.
    pub(crate) fn fill(&self, settings: &str, entries: &[&str]) {
        let export = self.export(settings, entries);
        let ran = self.feed(&["import", "$B", "--ttl-as-exported"], export.as_bytes());
        assert_eq!(ran.code, 0, "{ran:?}");
    }

    /// Sets metadata of the bucket on the server, as a program of a model does.
    pub(crate) fn set_metadata(&self, metadata: &[(String, String)]) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (server, stream) = (harness::shared().await, format!("KV_{}", self.bucket));
            let mut found = server.api(&format!("$JS.API.STREAM.INFO.{stream}"), &serde_json::json!({})).await.unwrap();
            for (key, text) in metadata {
                found["config"]["metadata"][key] = Value::from(text.as_str());
            }
            let updated = server.api(&format!("$JS.API.STREAM.UPDATE.{stream}"), &found["config"]).await.unwrap();
            assert!(updated.get("error").is_none(), "{updated}");
        });
    }

    /// Returns an export with these settings and entries.
    pub(crate) fn export(&self, settings: &str, entries: &[&str]) -> String {
        let comma = if settings.is_empty() { "" } else { "," };
        let mut text = format!("{{\"v\":1,\"type\":\"bucket\",\"bucket\":\"{}\"{comma}{settings}}}\n", self.bucket);
        for entry in entries {
            text.push_str(&format!("{{\"v\":1,\"type\":\"entry\",{entry}}}\n"));
        }
        text + &format!("{{\"v\":1,\"type\":\"end\",\"records\":{}}}\n", entries.len())
    }
}

/// The settings of a model in the metadata of a bucket.
pub(crate) fn card(model: &str, key: &str, codec: &str, version: u32) -> String {
    let card = format!(r#"{{"key":"{key}","codec":"{codec}","version":{version},"writes":{version},"oldest":1}}"#);
    format!(r#""history":1,"limit_markers_ms":300000,"metadata":{{"kvtyped.model.{model}":{}}}"#, Value::from(card))
}

/// The tool without the settings of the user who runs the tests.
pub(crate) fn tool(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvtyped"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("KVTYPED_")) {
        command.env_remove(name);
    }
    for name in ["NO_COLOR", "CLICOLOR_FORCE", "XDG_RUNTIME_DIR", "VISUAL", "EDITOR", "COLUMNS"] {
        command.env_remove(name);
    }
    command
        .env("USER", "tester")
        .env("HOME", home)
        .env("XDG_CONFIG_HOME", home.join("config"))
        .env("TERM", "xterm-256color");
    command
}

/// Runs a command with an input until it ends.
pub(crate) fn run(mut command: Command, input: &[u8]) -> Ran {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the tool starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let ran = Ran::of(child);
    // The tool may end before it has read everything.
    let _ = writer.join();
    ran
}

impl Ran {
    pub(crate) fn of(child: Child) -> Self {
        let Output { status, stdout, stderr } = child.wait_with_output().expect("the tool ends");
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Self { code: status.code().unwrap_or(-1), out: text(&stdout), err: text(&stderr) }
    }

    /// The error as an object, with `-o json`.
    pub(crate) fn error(&self) -> Value {
        let line = self.err.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs a test on a store of each kind.
macro_rules! on_each_store {
    ($($(#[$attribute:meta])* fn $name:ident($world:ident: &World) $body:block)*) => {$(
        mod $name {
            use super::*;

            fn check($world: &World) $body

            #[test]
            fn memory() {
                check(&World::memory());
            }

            #[test]
            fn file() {
                check(&World::file());
            }

            #[test]
            fn server() {
                check(&World::server());
            }
        }
    )*};
}
pub(crate) use on_each_store;
