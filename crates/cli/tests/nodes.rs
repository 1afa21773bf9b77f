//! A hub and devices over loopback sockets: what is synced, refused and out of reach.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::common::{Place, device, hub};

    #[test]
    fn devices_converge_through_a_hub() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, node, address) = hub(dir.path(), "bidirectional", &["bugs"]);
        let [one, two] =
            ["one", "two"].map(|name| device(dir.path(), name, &address, "bidirectional", &["bugs"]));
        let id = one.ok(&["insert", "bugs", r#"{"title":"x"}"#]);
        let gone = two.ok(&["insert", "bugs", "{}"]);
        for place in [&one, &two, &one] {
            place.ok(&["sync", "--timeout", "20"]);
        }
        assert_eq!(one.ok(&["export", "bugs"]), two.ok(&["export", "bugs"]));
        one.ok(&["delete", "bugs", &gone]);
        two.ok(&["update", "bugs", &id, r#"{"title":"y"}"#]);
        for place in [&one, &two, &one] {
            place.ok(&["sync", "--timeout", "20"]);
        }
        let end = hub.ok(&["export", "bugs"]);
        assert_eq!(end, format!(r#"{{"id":"{id}","title":"y"}}"#));
        assert_eq!([one.ok(&["export", "bugs"]), two.ok(&["export", "bugs"])], [end.clone(), end]);
        assert_eq!(node.stop(), Some(0));
        assert_eq!(one.fails(&["sync", "--timeout", "1"], 3).0, "unreachable");
    }

    #[test]
    fn a_running_device_syncs_when_told_to() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, _node, address) = hub(dir.path(), "bidirectional", &["bugs"]);
        let one = device(dir.path(), "one", &address, "bidirectional", &["bugs"]);
        let (_running, _) = one.up();
        let mut seen = hub.start(&["watch", "bugs"]);
        for _ in 0..5 {
            let id = one.ok(&["insert", "bugs", "{}"]);
            assert_eq!(seen.line(), format!(r#"{{"kind":"added","record":{{"id":"{id}"}}}}"#));
            one.ok(&["sync", "--timeout", "20"]);
            assert_eq!(one.ok(&["export", "bugs"]), hub.ok(&["export", "bugs"]));
        }
        // A checkpoint may be on its way just now.
        let idle = |_: &usize| one.ok(&["status"]).contains("idle");
        assert!((0..50).any(|turn| idle(&turn)), "{}", one.ok(&["status"]));
    }

    #[test]
    fn what_a_broadcast_does_not_take_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, _node, address) = hub(dir.path(), "broadcast", &["bugs"]);
        let id = hub.ok(&["insert", "bugs", "{}"]);
        let reader = device(dir.path(), "reader", &address, "read-only", &["bugs"]);
        reader.ok(&["sync", "--timeout", "20"]);
        assert!(reader.ok(&["export", "bugs"]).contains(&id));
        let writer = device(dir.path(), "writer", &address, "bidirectional", &["bugs"]);
        writer.ok(&["insert", "bugs", "{}"]);
        let (code, message) = writer.fails(&["sync", "--timeout", "10", "-q"], 4);
        assert!(code == "forbidden" && message.contains("broadcast"), "{message}");
        assert_eq!(hub.ok(&["query", "bugs", "--count"]), "1");
    }

    /// The same trace on one device, and split by actor over two that sync: the same records.
    fn replayed(trace: &str, databases: &[&str]) {
        let dir = tempfile::tempdir().unwrap();
        let (hub, _node, address) = hub(dir.path(), "bidirectional", databases);
        let whole = Place::new(
            dir.path(),
            "whole",
            &databases.iter().map(|db| format!("[databases.{db}]\nplaintext = true\n")).collect::<String>(),
        );
        assert_eq!(whole.run_with(&["replay", "-"], trace).code, 0);
        let devices = ["a", "b"].map(|name| device(dir.path(), name, &address, "bidirectional", databases));
        for (at, place) in devices.iter().enumerate() {
            let mine = |line: &&str| {
                let edit: serde_json::Value = serde_json::from_str(line).unwrap();
                edit["actor"].as_str().unwrap().bytes().map(usize::from).sum::<usize>() % 2 == at
            };
            let part: Vec<&str> = trace.lines().filter(mine).collect();
            let done = place.run_with(&["replay", "-"], &part.join("\n"));
            assert_eq!(done.code, 0, "{}", done.err);
        }
        let [a, b] = &devices;
        for place in [a, b, a] {
            place.ok(&["sync", "--timeout", "30"]);
        }
        for db in databases {
            let expected = whole.ok(&["export", db]);
            assert!(!expected.is_empty());
            for place in [&hub, a, b] {
                assert!(place.ok(&["export", db]) == expected, "{db} in {}", place.0.display());
            }
        }
    }

    #[test]
    fn a_trace_split_over_devices_gives_the_same_records() {
        let id = "8fec61dc-3997-5fec-a310-de36eb18ec70";
        let line = |at: u64, actor: &str, op: &str, set: &str| {
            format!(r#"{{"at":{at},"actor":"{actor}","db":"bugs","op":"{op}","id":"{id}","set":{set}}}"#)
                + "\n"
        };
        let trace = [
            line(1_000, "a", "insert", r#"{"s":1,"t":0}"#),
            line(2_000, "b", "update", r#"{"s":2}"#),
            line(2_000, "b", "update", r#"{"s":3}"#),
            line(2_000, "a", "update", r#"{"t":null}"#),
            line(3_000, "a", "delete", "{}"),
            line(4_000, "b", "insert", r#"{"s":9}"#),
        ];
        replayed(&trace.concat(), &["bugs"]);
    }

    #[test]
    fn recorded_traces_split_over_devices_give_the_same_records() {
        let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
        let shared = std::env::var_os("BLAZEDB_TRACES").map_or_else(beside, std::path::PathBuf::from);
        let all = ["bugs", "comments", "users"];
        for (file, databases) in [("bugs.sample.ndjson", &all[..1]), ("forum.sample.ndjson", &all)] {
            match std::fs::read_to_string(shared.join(file)) {
                Ok(trace) => replayed(&trace, databases),
                Err(_) => eprintln!("{file} is not here: not replayed"),
            }
        }
    }
}
