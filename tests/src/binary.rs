//! The real binary and plugins, and how tests run them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

/// The folder in which the workspace's binaries and plugins lie, built in the profile that the tests
/// run in. Nothing else puts them on disk: a test alone builds libraries only.
///
/// # Panics
/// When the build fails.
pub fn built() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = profile_folder();
        let profile = match folder.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => "dev".to_owned(),
            Some(name) => name.to_owned(),
        };
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--workspace", "--profile", &profile])
            .arg("--manifest-path")
            .arg(crate::tree::root().join("Cargo.toml"))
            .arg("--target-dir")
            .arg(folder.parent().expect("the profile's folder lies in the target folder"))
            .status()
            .expect("cargo runs");
        assert!(status.success(), "`cargo build --workspace` failed");
        folder
    })
}

/// The folder of the profile that the tests run in, in the target folder.
///
/// # Panics
/// When the test binary lies elsewhere.
pub fn profile_folder() -> PathBuf {
    // target/PROFILE/deps/it-HASH
    let this = std::env::current_exe().expect("the test binary has a path");
    this.ancestors().nth(2).expect("it lies in target/PROFILE/deps").to_path_buf()
}

/// A temporary folder to run commands in; it goes when the value goes.
#[derive(Debug)]
pub struct Workplace {
    folder: TempDir,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Workplace {
    /// An empty folder.
    ///
    /// # Panics
    /// When the system gives none.
    #[expect(clippy::new_without_default, reason = "making a folder is no default")]
    pub fn new() -> Self {
        Self { folder: TempDir::new().expect("a temporary folder") }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file, with the folders above it.
    ///
    /// # Panics
    /// When it can't be written.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path().join(name);
        let folder = path.parent().expect("a file lies in a folder");
        std::fs::create_dir_all(folder).expect("folders can be made");
        std::fs::write(path, bytes).expect("the file can be written");
    }

    /// Reads a file as text.
    ///
    /// # Panics
    /// When it can't be read.
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path().join(name)).expect(name)
    }

    /// `pretext` with `arguments`, ready to run in this folder.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(built().join("pretext"));
        command.args(arguments).current_dir(self.path()).stdin(Stdio::null());
        command.env_remove("RUST_BACKTRACE").env_remove("PRETEXT_PLUGINS");
        command
    }

    /// Runs `pretext` with `arguments` to its end.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn pretext(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(&mut self.command(arguments))
    }
}

/// Runs `pretext` with `arguments` in an empty folder.
pub fn pretext(arguments: &[&str]) -> Outcome {
    Workplace::new().pretext(arguments)
}

impl Outcome {
    /// Runs `command` to its end.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn of(command: &mut Command) -> Self {
        let output = command.output().expect("pretext starts");
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Asserts that the command went well.
    ///
    /// # Panics
    /// When it did not.
    pub fn assert_done(&self) {
        assert_eq!(self.code, Some(0), "exit code, after\n{}", self.stderr);
        assert!(!self.stderr.contains("error:"), "{}", self.stderr);
    }

    /// Asserts that the command ended with `code` and, after whatever it told before, with exactly this
    /// error and hint.
    ///
    /// # Panics
    /// When it did not.
    pub fn assert_ended(&self, code: i32, error: &str, hint: &str) {
        let expected = format!("error: {error}\n\nhint: {hint}\n");
        assert!(self.stderr.ends_with(&expected), "wanted\n{expected}\ngot\n{}", self.stderr);
        assert_eq!(self.stderr.matches("error:").count(), 1, "{}", self.stderr);
        assert_eq!(self.stdout, "", "stdout is for data");
        assert_eq!(self.code, Some(code), "exit code");
    }

    /// Asserts that the command was refused as asked wrongly, with exactly this error and hint.
    ///
    /// # Panics
    /// When it was not.
    pub fn assert_refused(&self, error: &str, hint: &str) {
        let expected = format!("error: {error}\n\nhint: {hint}\n");
        assert_eq!(self.stderr, expected, "stderr");
        assert_eq!(self.stdout, "", "stdout is for data");
        assert_eq!(self.code, Some(2), "exit code");
    }
}
