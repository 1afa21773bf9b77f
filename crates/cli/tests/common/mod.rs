//! The binary, in directories with topology files.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A directory with a node's topology file.
pub(crate) struct Place(pub(crate) PathBuf);

/// What a command answered.
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Place {
    pub(crate) fn new(parent: &Path, name: &str, topology: &str) -> Self {
        let place = parent.join(name);
        std::fs::create_dir_all(&place).unwrap();
        let node = format!("[node]\nname = '{name}'\ndata = 'data'\n{topology}");
        std::fs::write(place.join("blazedb.toml"), node).unwrap();
        Self(place)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blazedb"));
        command.args(args).current_dir(&self.0).env_remove("BLAZEDB_FILE").env_remove("RUST_LOG");
        command.env("TEST_PASSWORD", "old").env("NEW_PASSWORD", "new");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn run_with(&self, args: &[&str], input: &str) -> Answer {
        let mut child = self.command(args).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A command that does not read its input has closed it.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Answer {
            code: output.status.code().unwrap_or(-1),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    pub(crate) fn run(&self, args: &[&str]) -> Answer {
        self.run_with(args, "")
    }

    /// What a command prints that must go well.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let answer = self.run(args);
        assert_eq!(answer.code, 0, "{args:?}: {}", answer.err);
        answer.out.trim_end().to_owned()
    }

    /// The code of a failure, and its message.
    pub(crate) fn fails(&self, args: &[&str], exit: i32) -> (String, String) {
        let answer = self.run(&[args, &["--json"]].concat());
        assert_eq!(answer.code, exit, "{args:?}: {}{}", answer.out, answer.err);
        let error: serde_json::Value = serde_json::from_str(answer.err.trim()).expect(&answer.err);
        let text = |key: &str| error["error"][key].as_str().unwrap().to_owned();
        (text("code"), text("message"))
    }

    /// Starts a command that runs on.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        let mut child = self.command(args).spawn().unwrap();
        let err = BufReader::new(child.stderr.take().unwrap());
        let out = BufReader::new(child.stdout.take().unwrap());
        Running { child, out: Box::new(out), err: Box::new(err) }
    }

    pub(crate) fn up(&self) -> (Running, String) {
        let mut node = self.start(&["up"]);
        let mut line = String::new();
        node.err.read_line(&mut line).unwrap();
        assert!(line.starts_with("ready node="), "{line}");
        (node, line.trim_end().to_owned())
    }
}

/// A command that runs on; killed when it is dropped.
pub(crate) struct Running {
    child: Child,
    out: Box<dyn std::io::BufRead>,
    err: Box<dyn std::io::BufRead>,
}

impl Running {
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Sends SIGTERM and answers the exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
