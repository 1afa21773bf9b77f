//! The binary, in directories with topology files.
#![allow(dead_code, reason = "every test binary uses a part of it")]

pub(crate) mod proxy;
pub(crate) mod trace;

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long a condition may take to come true before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

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

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.prepared(Command::new(env!("CARGO_BIN_EXE_blazedb")), args)
    }

    fn prepared(&self, mut command: Command, args: &[&str]) -> Command {
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
        Self::run_on(&mut self.command(args))
    }

    fn run_on(command: &mut Command) -> Running {
        let mut child = command.spawn().unwrap();
        let err = BufReader::new(child.stderr.take().unwrap());
        let out = BufReader::new(child.stdout.take().unwrap());
        Running { child, out: Box::new(out), err: Box::new(err), log: Arc::default() }
    }

    pub(crate) fn up(&self) -> (Running, String) {
        Self::until_ready(self.start(&["up"]))
    }

    /// Runs the node in a network namespace. Other commands reach it by its socket, from anywhere.
    pub(crate) fn up_in(&self, namespace: &str) -> (Running, String) {
        let mut ip = Command::new("ip");
        ip.args(["netns", "exec", namespace, env!("CARGO_BIN_EXE_blazedb")]);
        Self::until_ready(Self::run_on(&mut self.prepared(ip, &["up"])))
    }

    /// The same with the most talkative log.
    pub(crate) fn up_saying_everything(&self) -> (Running, String) {
        Self::until_ready(Self::run_on(self.command(&["up"]).env("RUST_LOG", "trace")))
    }

    fn until_ready(mut node: Running) -> (Running, String) {
        loop {
            let mut line = String::new();
            let read = node.err.read_line(&mut line).unwrap();
            assert!(read > 0, "it ended before it was ready: {}", node.log.lock().unwrap());
            if line.starts_with("ready node=") {
                node.collect_log();
                return (node, line.trim_end().to_owned());
            }
            // What it says before: a peer may find it while it starts.
            *node.log.lock().unwrap() += &line;
        }
    }

    /// Waits until a database's records are these, as `export` prints them.
    pub(crate) fn until_holds(&self, db: &str, expected: &str) {
        let mut held = String::new();
        let same = until(|| {
            held = self.ok(&["export", db]);
            held == expected
        });
        assert!(same, "{db} in {}: {}", self.0.display(), difference(&held, expected));
    }
}

/// Waits until something holds; false if it does not in time.
pub(crate) fn until(mut holds: impl FnMut() -> bool) -> bool {
    let gives_up = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() >= gives_up {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    true
}

/// Where two exports part.
pub(crate) fn difference(found: &str, expected: &str) -> String {
    let (count, wanted) = (found.lines().count(), expected.lines().count());
    let first = found.lines().zip(expected.lines()).find(|(a, b)| a != b);
    format!("{count} lines instead of {wanted}, first difference: {first:?}")
}

/// The value of an environment variable that makes a test longer.
pub(crate) fn asked_for(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// A hub that serves these databases to anybody, and its address.
pub(crate) fn hub(dir: &Path, serve: &str, databases: &[&str]) -> (Place, Running, String) {
    let hub = hub_at(dir, "127.0.0.1:0", serve, databases);
    let (node, ready) = hub.up();
    let address = address_in(&ready);
    (hub, node, address)
}

/// The directory of such a hub, which is not started.
pub(crate) fn hub_at(dir: &Path, listen: &str, serve: &str, databases: &[&str]) -> Place {
    let mut topology = format!("listen = '{listen}'\nadmin = '127.0.0.1:0'\n[auth]\nanonymous = true\n");
    for db in databases {
        topology += &format!(
            "[databases.{db}]\nplaintext = true\nserve = '{serve}'\n[databases.{db}.access]\npublic = true\n"
        );
    }
    Place::new(dir, "hub", &topology)
}

/// Where a node listens, from what it prints when it is ready.
pub(crate) fn address_in(ready: &str) -> String {
    ready.split("listen=").nth(1).unwrap().split(' ').next().unwrap().to_owned()
}

/// A device of a hub.
pub(crate) fn device(dir: &Path, name: &str, address: &str, mode: &str, databases: &[&str]) -> Place {
    let entry = |db: &&str| {
        format!(
            "[databases.{db}]\nplaintext = true\npattern = 'hub-and-spoke'\nhub = 'ws://{address}'\nmode = '{mode}'\n"
        )
    };
    Place::new(dir, name, &databases.iter().map(entry).collect::<String>())
}

/// A node with these databases and no link.
pub(crate) fn alone(dir: &Path, name: &str, databases: &[&str]) -> Place {
    let entry = |db: &&str| format!("[databases.{db}]\nplaintext = true\n");
    Place::new(dir, name, &databases.iter().map(entry).collect::<String>())
}

/// An address that stays the same over restarts: below the ports that the system gives to outgoing connections.
pub(crate) fn fixed_address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(31) + NEXT.fetch_add(1, Ordering::Relaxed);
        let address = format!("127.0.0.1:{}", 12_000 + number % 18_000);
        if std::net::TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}

impl Place {
    /// As [`Place::up`], with everything that is logged in a file.
    pub(crate) fn up_logging(&self) -> (Running, String) {
        let mut command = self.command(&["up", "-vv"]);
        let log = self.0.join("log");
        command.stderr(std::fs::File::create(&log).unwrap());
        let child = command.spawn().unwrap();
        let (out, err) = (Box::new(std::io::empty()), Box::new(std::io::empty()));
        let running = Running { child, out, err, log: Arc::default() };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        loop {
            let text = std::fs::read_to_string(&log).unwrap();
            if let Some(line) = text.lines().find(|line| line.starts_with("ready node=")) {
                return (running, line.to_owned());
            }
            assert!(std::time::Instant::now() < deadline, "{text}");
            std::thread::sleep(std::time::Duration::from_millis(30));
        }
    }
}

/// A command that runs on; killed when it is dropped.
pub(crate) struct Running {
    child: Child,
    out: Box<dyn BufRead + Send>,
    err: Box<dyn BufRead + Send>,
    log: Arc<Mutex<String>>,
}

impl Running {
    /// Keeps what it writes to stderr: a pipe that nobody empties would stop it.
    fn collect_log(&mut self) {
        let mut err = std::mem::replace(&mut self.err, Box::new(std::io::empty()));
        let log = Arc::clone(&self.log);
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while err.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                *log.lock().unwrap() += &String::from_utf8_lossy(&line);
                line.clear();
            }
        });
    }

    /// What a node has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Ends it as `kill -9` does.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it says on stderr, and its exit code.
    pub(crate) fn ended(mut self) -> (Option<i32>, String) {
        let mut text = String::new();
        self.err.read_to_string(&mut text).unwrap();
        (self.child.wait().unwrap().code(), text)
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn interrupt(&mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
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
