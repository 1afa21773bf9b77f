//! A node in a process of its own, seen from the program that measures.
//!
//! One request a line, one answer a line, both JSON, over the node's stdin and stdout.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::NODE_ARGUMENT;
use crate::error::BenchError;

/// What a node is asked to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// Open databases `names`, each a file of that name in `dir`.
    Open { dir: PathBuf, names: Vec<String>, keyed: bool, durable: bool },
    /// Insert records `from..from + count`, `batch` a transaction.
    Insert { name: String, from: u64, count: u64, batch: u64 },
    /// Change a field of every `every`-th record.
    Change { name: String, every: usize },
    /// Serve every database. Answers the address.
    Listen,
    /// Be a whole node, as a topology file declares it: databases `names`, served, and an admin address. Answers both
    /// addresses.
    Serve { dir: PathBuf, names: Vec<String> },
    /// Link database `name` with `remote` at `url`, `times` times under as many identities.
    Link { name: String, remote: String, url: String, compression: bool, times: usize },
    /// Give the database a keyring that seals everything, or join the one that there is.
    Seal { name: String, create: bool },
    /// Drop every link.
    Unlink,
    /// Wait until every link is caught up.
    Sync { seconds: u64 },
    /// Wait until the feed of every database has come to `head`.
    Reach { head: u64, seconds: u64 },
    /// Wait until the feed of one database has come to `head`.
    ReachOne { name: String, head: u64, seconds: u64 },
    /// Tell what was used so far.
    Usage { name: String },
    /// End.
    Stop,
}

/// What a node answers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Why it failed; empty if it did not.
    pub(crate) error: String,
    /// Where the node listens.
    pub(crate) address: String,
    /// Where its page is.
    pub(crate) admin: String,
    /// How long it took, in seconds.
    pub(crate) seconds: f64,
    /// Resident memory, in KiB.
    pub(crate) rss_kib: u64,
    /// Its peak so far, in KiB.
    pub(crate) peak_kib: u64,
    /// Processor time so far, in seconds.
    pub(crate) cpu_seconds: f64,
    /// Bytes over all links, both ways.
    pub(crate) wire_bytes: u64,
    /// The end of a database's feed.
    pub(crate) head: u64,
    /// Batches encoded for subscribers of a database.
    pub(crate) encoded: u64,
    /// Sessions that the listener has open.
    pub(crate) open: u64,
}

/// A running node. Killed when dropped.
pub(crate) struct Node {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Node {
    pub(crate) fn start() -> Result<Self, BenchError> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(NODE_ARGUMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (Some(stdin), Some(stdout)) = (stdin, stdout) else { return Err(BenchError::NodeGone) };
        Ok(Self { child, stdin, stdout: BufReader::new(stdout) })
    }

    /// A node with one database, encrypted and durable.
    pub(crate) fn with_database(dir: &Path, name: &str) -> Result<Self, BenchError> {
        let mut node = Self::start()?;
        node.ask(&Ask::Open {
            dir: dir.to_owned(),
            names: vec![name.to_owned()],
            keyed: true,
            durable: true,
        })?;
        Ok(node)
    }

    pub(crate) fn ask(&mut self, ask: &Ask) -> Result<Answer, BenchError> {
        self.send(ask)?;
        self.receive()
    }

    /// Asks without waiting for the answer.
    pub(crate) fn send(&mut self, ask: &Ask) -> Result<(), BenchError> {
        let mut line = serde_json::to_string(ask)?;
        line.push('\n');
        self.stdin.write_all(line.as_bytes())?;
        Ok(self.stdin.flush()?)
    }

    pub(crate) fn receive(&mut self) -> Result<Answer, BenchError> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            return Err(BenchError::NodeGone);
        }
        let answer: Answer = serde_json::from_str(&line)?;
        if answer.error.is_empty() { Ok(answer) } else { Err(BenchError::Node(answer.error)) }
    }

    pub(crate) fn listen(&mut self) -> Result<String, BenchError> {
        Ok(format!("ws://{}", self.ask(&Ask::Listen)?.address))
    }

    pub(crate) fn link(&mut self, name: &str, remote: &str, url: &str) -> Result<(), BenchError> {
        self.link_with(name, remote, url, true)
    }

    pub(crate) fn link_with(
        &mut self,
        name: &str,
        remote: &str,
        url: &str,
        compression: bool,
    ) -> Result<(), BenchError> {
        let (name, remote, url) = (name.to_owned(), remote.to_owned(), url.to_owned());
        self.ask(&Ask::Link { name, remote, url, compression, times: 1 }).map(drop)
    }

    pub(crate) fn usage(&mut self, name: &str) -> Result<Answer, BenchError> {
        self.ask(&Ask::Usage { name: name.to_owned() })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A node that does not end by itself is ended; it wrote to temporary files only.
        if self.ask(&Ask::Stop).is_err() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}
