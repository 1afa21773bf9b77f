//! The binary as a user or a script meets it.

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Command, Output, Stdio};

    fn blazedb(dir: &Path, args: &[&str]) -> Output {
        command(dir, args).output().unwrap()
    }

    fn command(dir: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blazedb"));
        command.args(args).current_dir(dir).env_remove("BLAZEDB_FILE").stdin(Stdio::null());
        command
    }

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn help_and_version_are_data() {
        let dir = tempfile::tempdir().unwrap();
        for args in [&["--help"][..], &["--version"], &["query", "--help"], &["--json", "--help"]] {
            let out = blazedb(dir.path(), args);
            assert_eq!(out.status.code(), Some(0), "{args:?}");
            assert!(!out.stdout.is_empty() && out.stderr.is_empty(), "{args:?}");
        }
    }

    #[test]
    fn wrong_usage_exits_with_2_in_both_forms() {
        let dir = tempfile::tempdir().unwrap();
        for args in [&["nonsense"][..], &[], &["get"], &["init", "--hub-url", "ws://h"], &["up", "-q", "-v"]]
        {
            let out = blazedb(dir.path(), args);
            assert_eq!(out.status.code(), Some(2), "{args:?}");
            assert!(out.stdout.is_empty(), "{args:?}");
            let stderr = text(&out.stderr);
            assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "{args:?}: {stderr}");

            let out = blazedb(dir.path(), &[args, &["--json"]].concat());
            assert_eq!(out.status.code(), Some(2), "{args:?}");
            let error: serde_json::Value = serde_json::from_slice(&out.stderr).unwrap();
            assert_eq!(error["error"]["code"], "usage", "{args:?}");
            assert!(error["error"]["message"].is_string() && error["error"]["hint"].is_string(), "{args:?}");
        }
    }

    #[test]
    fn init_writes_a_file_once() {
        let dir = tempfile::tempdir().unwrap();
        let first = blazedb(dir.path(), &["init", "--hub"]);
        assert_eq!((first.status.code(), text(&first.stdout)), (Some(0), ""), "{}", text(&first.stderr));
        let written = std::fs::read_to_string(dir.path().join("blazedb.toml")).unwrap();
        assert!(written.contains("name   = \"hub\""));

        let again = blazedb(dir.path(), &["init", "--hub", "--name", "other", "--json"]);
        assert_eq!(again.status.code(), Some(1));
        let error: serde_json::Value = serde_json::from_slice(&again.stderr).unwrap();
        assert_eq!(error["error"]["code"], "conflict");
        assert_eq!(std::fs::read_to_string(dir.path().join("blazedb.toml")).unwrap(), written);
    }

    #[test]
    fn init_writes_where_the_option_or_the_environment_says() {
        let dir = tempfile::tempdir().unwrap();
        let url = "wss://hub.example.com";
        let out = blazedb(dir.path(), &["init", "--device", "--hub-url", url, "-f", "phone.toml", "--json"]);
        let answer: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!((&answer["file"], &answer["node"]), (&"phone.toml".into(), &"device".into()));
        assert!(answer["fingerprint"].as_str().unwrap().starts_with("blz1-"));
        assert!(std::fs::read_to_string(dir.path().join("phone.toml")).unwrap().contains(url));

        let status = command(dir.path(), &["init", "-q"]).env("BLAZEDB_FILE", "env.toml").output().unwrap();
        assert!(status.status.success() && status.stderr.is_empty());
        assert!(dir.path().join("env.toml").exists());
    }

    #[test]
    fn init_refuses_what_no_file_can_hold_and_leaves_none() {
        let dir = tempfile::tempdir().unwrap();
        for (args, exit) in [
            (&["init", "--name", "a\nb"][..], 2),
            (&["init", "--name", ""], 2),
            (&["init", "--device"], 2),
            (&["init", "--hub", "--device", "--hub-url", "ws://h"], 2),
            (&["init", "--device", "--hub-url", "http://h"], 2),
            (&["init", "-f", "missing/blazedb.toml"], 1),
        ] {
            let out = blazedb(dir.path(), args);
            assert_eq!(out.status.code(), Some(exit), "{args:?}: {}", text(&out.stderr));
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_reader_that_went_away_ends_a_command_quietly() {
        let dir = tempfile::tempdir().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let out = command(dir.path(), &["--help"]).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!((out.status.code(), text(&out.stderr)), (Some(0), ""));
    }
}
