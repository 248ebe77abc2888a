//! A command that a test watches while it runs, by the JSON lines that it writes.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use serde_json::Value;

/// A running `pretext ... --json`.
#[derive(Debug)]
pub struct Watched {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Watched {
    /// Starts `command`, which must write JSON lines.
    ///
    /// # Panics
    /// When it doesn't start.
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let lines = BufReader::new(child.stdout.take().expect("its stdout is a pipe"));
        Self { child, lines }
    }

    /// Reads events until one is as wanted, which it returns.
    ///
    /// # Panics
    /// When the command ends before.
    pub fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let mut line = String::new();
            let read = self.lines.read_line(&mut line).expect("its stdout can be read");
            assert!(read > 0, "the command ended before it wrote what was waited for");
            let event = serde_json::from_str(&line).expect("a line is JSON");
            if wanted(&event) {
                return event;
            }
        }
    }

    /// Reads events until the one of step `step`.
    ///
    /// # Panics
    /// When the command ends before.
    pub fn until_step(&mut self, step: u64) {
        self.until(|event| event["event"] == "step" && event["step"] == step);
    }

    /// Ends it at once, as `kill -9` does.
    ///
    /// # Panics
    /// When that fails.
    pub fn kill(mut self) -> ExitStatus {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends")
    }

    /// Sends it a signal such as `INT`, as `kill` does, and waits for its end: its status and stderr.
    ///
    /// # Panics
    /// When that fails.
    pub fn signal(self, name: &str) -> (ExitStatus, String) {
        let number = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &number]).status().expect("kill runs");
        assert!(sent.success(), "`kill -s {name}` failed");
        let Self { child, mut lines } = self;
        // The rest is read, so that a full pipe doesn't hold it up.
        std::io::copy(&mut lines, &mut std::io::sink()).expect("its stdout can be read");
        let output = child.wait_with_output().expect("it ends");
        (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
