//! What goes wrong on real machines: one line that names what, where and what to do, and the right exit code.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Place, alone, device, hub};

const KEYED: &str = "[databases.bugs]\npassword_env = 'TEST_PASSWORD'\n";

/// The line of a failure, as people see it: exactly one, with all of `words`.
fn line(place: &Place, args: &[&str], exit: i32, words: &[&str]) -> String {
    let answer = place.run(args);
    assert_eq!(answer.code, exit, "{args:?}: {}{}", answer.out, answer.err);
    assert!(answer.err.starts_with("error: ") && answer.err.lines().count() == 1, "{args:?}: {}", answer.err);
    for word in words {
        assert!(answer.err.contains(word), "{args:?}: {word:?} is not in {}", answer.err);
    }
    let (_, message) = place.fails(args, exit);
    assert!(answer.err.contains(message.trim()), "the same in JSON: {message}");
    answer.err
}

#[test]
fn a_wrong_password_and_a_damaged_file_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::new(dir.path(), "node", KEYED);
    let records: String = (0..2_000).map(|n| format!("{{\"n\":{n},\"text\":\"some text {n}\"}}\n")).collect();
    assert_eq!(place.run_with(&["import", "bugs", "-"], &records).code, 0);
    let file = place.0.join("data/bugs.blazedb");
    let topology = std::fs::read_to_string(place.0.join("blazedb.toml")).unwrap();
    let other = topology.replace("TEST_PASSWORD", "NEW_PASSWORD");
    std::fs::write(place.0.join("other.toml"), other).unwrap();
    for command in [&["query", "bugs"][..], &["verify", "bugs"], &["up"], &["export", "bugs"]] {
        line(&place, &[command, &["-f", "other.toml"]].concat(), 5, &["bugs", "password"]);
    }
    std::fs::write(place.0.join("other.toml"), topology.replace("TEST_PASSWORD", "NOT_SET")).unwrap();
    line(&place, &["query", "bugs", "-f", "other.toml"], 2, &["bugs", "NOT_SET"]);

    // No message quotes the key of the file.
    let told = line(&place, &["backup", "bugs", "nowhere/b.bak"], 1, &["nowhere"]);
    std::fs::create_dir(place.0.join("b.bak.backup")).unwrap();
    let also = line(&place, &["backup", "bugs", "b.bak"], 1, &["b.bak"]);
    assert!(
        [&told, &also].iter().all(|text| text.split("key=raw:").skip(1).all(|key| key.starts_with("...")))
    );

    let sound = std::fs::read(&file).unwrap();
    let size = sound.len();
    let damages: [(&str, Vec<u8>); 4] = [
        ("cut", sound[..size / 2].to_vec()),
        ("a page in the middle", [&sound[..size / 2], &[7; 64], &sound[size / 2 + 64..]].concat()),
        ("the last page", [&sound[..size - 100], &[7; 100]].concat()),
        ("short", sound[..100].to_vec()),
    ];
    for (what, bytes) in damages {
        std::fs::write(&file, bytes).unwrap();
        println!("{what}: {}", line(&place, &["verify", "bugs"], 5, &["bugs"]));
    }
    std::fs::write(&file, &sound).unwrap();
    place.ok(&["verify", "bugs"]);
    assert_eq!(place.ok(&["query", "bugs", "--count"]), "2000");
}

#[test]
fn a_second_process_on_a_file_is_told_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let place = alone(dir.path(), "node", &["bugs"]);
    place.ok(&["insert", "bugs", "{}"]);
    let (_node, _) = place.up();
    line(&place, &["up"], 1, &["data", "stop it first"]);
    // Without its socket nobody finds the node, but the file is still its own.
    let (socket, aside) = (place.0.join("data/node.sock"), place.0.join("aside.sock"));
    std::fs::rename(&socket, &aside).unwrap();
    for command in [&["query", "bugs"][..], &["insert", "bugs", "{}"], &["up"]] {
        line(&place, command, 1, &["bugs.blazedb", "another process"]);
    }
    std::fs::rename(&aside, &socket).unwrap();
    assert_eq!(place.ok(&["query", "bugs", "--count"]), "1");
}

#[test]
fn addresses_that_are_taken_or_lead_nowhere_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for key in ["listen", "admin"] {
        let place = Place::new(
            dir.path(),
            key,
            &format!("{key} = '{address}'\n[auth]\nanonymous = true\n[databases.bugs]\nplaintext = true\n"),
        );
        line(&place, &["up"], 1, &[&address, "in use"]);
        // Nothing is left behind that would keep the next one from starting.
        place.ok(&["insert", "bugs", "{}"]);
    }
    let nobody = common::fixed_address();
    let far = device(dir.path(), "far", &nobody, "bidirectional", &["bugs"]);
    far.ok(&["insert", "bugs", "{}"]);
    line(&far, &["sync", "--timeout", "1"], 3, &["bugs", &nobody, "1 pending"]);
    let (node, _) = far.up();
    let status = |words: &str| far.ok(&["status"]).contains(words);
    assert!(common::until(|| status("not reachable")), "{}", far.ok(&["status"]));
    assert_eq!(node.stop(), Some(0));
    // It is somebody, but no node: an SSH server, say. And one that accepts and says nothing.
    let silent = device(dir.path(), "silent", &address, "bidirectional", &["bugs"]);
    line(&silent, &["sync", "--timeout", "2"], 3, &["bugs", &address]);
}

#[test]
fn a_mistake_in_the_topology_file_has_line_and_column() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::new(dir.path(), "node", "[databases.bugs]\nplaintext = true\n");
    let good = std::fs::read_to_string(place.0.join("blazedb.toml")).unwrap();
    for (text, at) in [
        ("patern = 'mesh'\n", "6:1"),
        ("  pattern = 'mash'\n", "6:13"),
        ("mode = 'readonly'\n", "6:8"),
        ("serve = 'all'\n", "6:9"),
        ("durability = 'some'\n", "6:14"),
        ("[databases.bugs.policy]\nwhere = 'a = 1'\n", "7:12"),
        ("[databases.bugs.access]\nreed = 'true'\n", "7:1"),
        ("pattern = 'hub-and-spoke'\nhub = 'http://h'\n", "7:7"),
        ("plaintext = true\n", "6:1"),
        ("[nodes]\n", "6:2"),
        ("x\n", "6:2"),
    ] {
        std::fs::write(place.0.join("blazedb.toml"), format!("{good}{text}")).unwrap();
        for command in [&["query", "bugs"][..], &["up"], &["status"], &["sync"], &["apply"]] {
            line(&place, command, 2, &[&format!("blazedb.toml:{at}")]);
        }
    }
    std::fs::remove_file(place.0.join("blazedb.toml")).unwrap();
    line(&place, &["status"], 2, &["blazedb.toml", "blazedb init"]);
}

/// A file system of some hundred kilobytes. `None` if this may not mount one, which in CI is a failure.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, kilobytes: u32) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={kilobytes}k");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output();
        if done.is_ok_and(|done| done.status.success()) {
            return Some(Self(at.to_owned()));
        }
        assert!(std::env::var_os("CI").is_none(), "no small disk: run as root, with mount");
        eprintln!("skipped: this test mounts a tmpfs, which only root may");
        None
    }

    /// Leaves so much free.
    fn fill(&self, leave: u64) {
        let free = Command::new("df").args(["--output=avail", "-B1"]).arg(&self.0).output().unwrap();
        let free = String::from_utf8(free.stdout).unwrap();
        let free: u64 = free.lines().last().unwrap().trim().parse().unwrap();
        let size = usize::try_from(free.saturating_sub(leave)).unwrap();
        std::fs::write(self.0.join("ballast"), vec![1; size]).unwrap();
    }

    fn clear(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn many(count: usize) -> String {
    (0..count).map(|n| format!("{{\"n\":{n},\"text\":\"{}\"}}\n", "x".repeat(500))).collect()
}

#[test]
fn a_full_disk_refuses_writes_and_heals() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&dir.path().join("node/data"), 4_096) else { return };
    let place = alone(dir.path(), "node", &["bugs"]);
    let first = place.ok(&["insert", "bugs", r#"{"n":-1}"#]);
    disk.fill(2 << 20);
    let done = place.run_with(&["import", "bugs", "-"], &many(20_000));
    assert_eq!(done.code, 1, "{}", done.err);
    assert!(done.err.lines().count() == 1 && done.err.contains("bugs.blazedb"), "{}", done.err);
    assert!(done.err.contains("disk is full") && done.err.contains("records before"), "{}", done.err);
    // What was there is still there and can be read.
    assert_eq!(place.ok(&["get", "bugs", &first]), format!(r#"{{"id":"{first}","n":-1}}"#));
    let done = place.run_with(&["import", "bugs", "-"], &many(20_000));
    assert!(done.code == 1 && done.err.contains("disk is full"), "{}", done.err);
    place.ok(&["verify", "bugs"]);
    disk.clear();
    let before: u64 = place.ok(&["query", "bugs", "--count"]).parse().unwrap();
    assert_eq!(place.run_with(&["import", "bugs", "-"], &many(100)).code, 0);
    place.ok(&["verify", "bugs"]);
    assert_eq!(place.ok(&["query", "bugs", "--count"]), (before + 100).to_string());
}

#[test]
fn a_node_whose_disk_is_full_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&dir.path().join("device/data"), 8_192) else { return };
    let (hub, _node, address) = hub(dir.path(), "bidirectional", &["bugs"]);
    let device = device(dir.path(), "device", &address, "bidirectional", &["bugs"]);
    device.ok(&["insert", "bugs", r#"{"n":-1}"#]);
    device.ok(&["sync", "--timeout", "60"]);
    let (node, _) = device.up();
    disk.fill(32 << 10);
    assert_eq!(hub.run_with(&["import", "bugs", "-"], &many(3_000)).code, 0);
    let shown = || device.ok(&["status"]);
    assert!(common::until(|| shown().contains("disk is full")), "{}", shown());
    let (code, message) =
        device.fails(&["insert", "bugs", &format!("{{\"s\":\"{}\"}}", "y".repeat(60_000))], 1);
    assert!(code == "io" && message.contains("disk is full"), "{code}: {message}");
    disk.clear();
    device.until_holds("bugs", &hub.ok(&["export", "bugs"]));
    device.ok(&["verify", "bugs"]);
    assert_eq!(node.stop(), Some(0));
}

/// A library that sets a process's clock ahead, as a device's may be. `None` without a C compiler.
fn clock_ahead(dir: &Path, seconds: u32) -> Option<PathBuf> {
    let source = dir.join("ahead.c");
    let text = format!(
        "#define _GNU_SOURCE\n#include <time.h>\n#include <sys/syscall.h>\n#include <unistd.h>\n\
         int clock_gettime(clockid_t clock, struct timespec *at) {{\n\
           int done = (int)syscall(SYS_clock_gettime, clock, at);\n\
           if (done == 0 && clock == CLOCK_REALTIME) at->tv_sec += {seconds};\n  return done;\n}}\n"
    );
    std::fs::write(&source, text).unwrap();
    let library = dir.join("ahead.so");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).output();
    if built.is_ok_and(|built| built.status.success()) {
        return Some(library);
    }
    assert!(std::env::var_os("CI").is_none(), "no C compiler");
    eprintln!("skipped: this test builds a small C library");
    None
}

#[test]
fn a_clock_ten_minutes_ahead_is_named_and_heals() {
    let dir = tempfile::tempdir().unwrap();
    let Some(library) = clock_ahead(dir.path(), 600) else { return };
    let address = common::fixed_address();
    let hub = common::hub_at(dir.path(), &address, "bidirectional", &["bugs"]);
    let (node, _) = hub.up();
    let known = hub.ok(&["insert", "bugs", r#"{"who":"hub"}"#]);
    let place = device(dir.path(), "early", &address, "bidirectional", &["bugs"]);
    let ahead = |args: &[&str]| {
        let output = place.command(args).env("LD_PRELOAD", &library).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (code, id, error) = ahead(&["insert", "bugs", r#"{"who":"early"}"#]);
    assert_eq!(code, 0, "{error}");
    let (code, _, error) = ahead(&["sync", "--timeout", "20", "-q"]);
    assert_eq!(code, 3, "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    for word in ["bugs", "ahead", "clock"] {
        assert!(error.contains(word), "{word:?} is not in {error}");
    }
    assert_eq!(hub.fails(&["get", "bugs", id.trim()], 1).0, "not_found");
    // Nothing of it is anywhere else, what is there arrives, and a node that accepts such clocks gets the record.
    assert_eq!(place.ok(&["query", "bugs", "--count"]), "2");
    assert_eq!(place.ok(&["get", "bugs", &known]), format!(r#"{{"id":"{known}","who":"hub"}}"#));
    drop(node);
    let topology = std::fs::read_to_string(hub.0.join("blazedb.toml")).unwrap();
    let patient = topology.replace("[auth]", "clock_drift_limit = '15m'\n[auth]");
    std::fs::write(hub.0.join("blazedb.toml"), patient).unwrap();
    let (_node, _) = hub.up();
    place.ok(&["sync", "--timeout", "60"]);
    assert!(hub.ok(&["get", "bugs", id.trim()]).contains("early"));
}
