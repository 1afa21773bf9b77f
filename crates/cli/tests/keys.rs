//! `blazedb key`: members, a hub that reads nothing, and what goes wrong.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::common::{Place, Running};

    fn hub(dir: &Path) -> (Place, Running, String) {
        let topology = "listen = '127.0.0.1:0'\n[auth]\nanonymous = true\n[databases.bugs]\nplaintext = true\n\
                        serve = 'bidirectional'\n[databases.bugs.access]\npublic = true\n";
        let hub = Place::new(dir, "hub", topology);
        let (node, ready) = hub.up();
        let address = crate::common::address_in(&ready);
        (hub, node, address)
    }

    fn topology(address: &str, encryption: &str) -> String {
        format!(
            "[databases.bugs]\nplaintext = true\npattern = 'hub-and-spoke'\nhub = 'ws://{address}'\n\
             [databases.bugs.policy]\n{encryption}\n"
        )
    }

    const E2E: &str = "encryption = 'e2e-only'\nrouting_fields = ['teamId']";

    fn device(dir: &Path, name: &str, address: &str) -> Place {
        Place::new(dir, name, &topology(address, E2E))
    }

    fn hub_holds(hub: &Place, marker: &str) -> bool {
        ["bugs.blazedb", "bugs.blazedb-wal"].iter().any(|file| {
            let bytes = std::fs::read(hub.0.join("data").join(file)).unwrap_or_default();
            bytes.windows(marker.len()).any(|window| window == marker.as_bytes())
        })
    }

    #[test]
    fn devices_join_by_code_rotate_and_leave() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, node, address) = hub(dir.path());
        let [one, two, three] = ["one", "two", "three"].map(|name| device(dir.path(), name, &address));
        // Without keys nothing leaves.
        let id = one.ok(&["insert", "bugs", r#"{"title":"MARKER","teamId":"ios"}"#]);
        let (_, message) = one.fails(&["sync", "--timeout", "20"], 4);
        assert!(message.contains("key create"), "{message}");
        one.fails(&["key", "show", "bugs"], 1);
        one.ok(&["key", "create", "bugs"]);
        one.ok(&["sync", "--timeout", "20"]);
        let code = one.ok(&["key", "invite", "bugs", "--name", "for two"]);
        assert!(code.starts_with("blzi-"), "{code}");
        two.fails(&["key", "join", "bugs", "blzi-1234"], 2);
        two.ok(&["key", "join", "bugs", &code]);
        two.ok(&["sync", "--timeout", "20"]);
        assert!(two.ok(&["get", "bugs", &id]).contains("MARKER"));
        assert!(!hub_holds(&hub, "MARKER") && !hub_holds(&hub, "title"));
        assert_eq!(hub.ok(&["get", "bugs", &id]), format!(r#"{{"id":"{id}","teamId":"ios"}}"#));
        // What is sealed is told apart by what it is, not by its name.
        let told = hub.ok(&["explain", "bugs", &id, "--json"]);
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        let sealed =
            |field: &serde_json::Value| (field["name"] == "teamId", field["sealed"].as_bool().unwrap());
        let fields: Vec<_> = told["fields"].as_array().unwrap().iter().map(sealed).collect();
        assert!(fields.len() == 2 && fields.iter().all(|(readable, sealed)| readable != sealed), "{told}");
        // A code serves once.
        three.fails(&["key", "join", "bugs", &code], 3);

        let members = one.ok(&["key", "members", "bugs"]);
        assert!(members.contains("one") && members.contains("two") && members.contains("this device"));
        two.ok(&["key", "rotate", "bugs"]);
        one.ok(&["key", "remove", "bugs", "two"]);
        let new = one.ok(&["insert", "bugs", r#"{"title":"MARKER2"}"#]);
        one.ok(&["sync", "--timeout", "20"]);
        let (_, message) = two.fails(&["sync", "--timeout", "20"], 4);
        assert!(message.contains("no member"), "{message}");
        two.fails(&["get", "bugs", &new], 1);
        let shown = one.ok(&["key", "show", "bugs", "--json"]);
        assert!(shown.contains(r#""epoch":3"#), "{shown}");
        one.fails(&["key", "remove", "bugs", "nobody"], 1);
        assert_eq!(node.stop(), Some(0));
    }

    #[test]
    fn a_recovery_phrase_brings_a_database_back_and_a_passphrase_lets_a_group_in() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, node, address) = hub(dir.path());
        let [one, two, three] = ["one", "two", "three"].map(|name| device(dir.path(), name, &address));
        let secret = one.0.join("secret");
        std::fs::write(&secret, "correct horse battery staple\n").unwrap();
        one.ok(&["key", "create", "bugs", "--passphrase-file", secret.to_str().unwrap()]);
        let words = one.ok(&["key", "recovery", "bugs"]);
        assert_eq!(words.split(' ').count(), 24);
        let id = one.ok(&["insert", "bugs", r#"{"title":"MARKER"}"#]);
        one.ok(&["sync", "--timeout", "20"]);
        for (place, secret) in [(&two, words.as_str()), (&three, "correct horse battery staple")] {
            let joined = place.run_with(&["key", "join", "bugs"], secret);
            assert_eq!(joined.code, 0, "{}", joined.err);
            place.ok(&["sync", "--timeout", "20"]);
            assert!(place.ok(&["get", "bugs", &id]).contains("MARKER"));
        }
        assert!(!hub_holds(&hub, "MARKER") && !hub_holds(&hub, "correct horse"));
        assert_eq!(node.stop(), Some(0));
    }

    #[test]
    fn an_invitation_is_there_for_whoever_has_its_code_and_a_device_waits_for_one_that_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, node, address) = hub(dir.path());
        let [one, two, three] = ["one", "two", "three"].map(|name| device(dir.path(), name, &address));
        one.ok(&["key", "create", "bugs"]);
        let invited = hub.ok(&["key", "members", "bugs"]);
        assert_eq!(invited.lines().count(), 1, "{invited}");
        let (running, _) = one.up();
        let code = one.ok(&["key", "invite", "bugs", "--name", "for two"]);
        assert!(hub.ok(&["key", "members", "bugs"]).contains("for two"), "the hub has it");
        two.ok(&["key", "join", "bugs", &code]);
        assert_eq!(running.stop(), Some(0));

        // Where the hub is not reached, that is said, and the code is good all the same.
        let elsewhere = device(dir.path(), "one", "127.0.0.1:1");
        let answer = elsewhere.run(&["key", "invite", "bugs", "--name", "for three"]);
        assert_eq!(answer.code, 0, "{}", answer.err);
        assert!(answer.err.contains("when the link is up"), "{}", answer.err);
        let code = answer.out.trim_end().to_owned();
        let (_, message) = three.fails(&["key", "join", "bugs", &code, "--wait", "1"], 3);
        assert!(message.contains("not joined yet"), "{message}");
        let joins = three.start(&["key", "join", "bugs", &code, "--wait", "120"]);
        let one = device(dir.path(), "one", &address);
        one.ok(&["sync", "--timeout", "60"]);
        let (exit, said) = joins.ended();
        assert_eq!(exit, Some(0), "{said}");
        assert!(hub.ok(&["key", "members", "bugs"]).contains("three"));
        // A code that has served is told from one that is not known yet.
        let (_, message) = two.fails(&["key", "join", "bugs", &code], 1);
        assert!(message.contains("a member already"), "{message}");
        let four = device(dir.path(), "four", &address);
        let (_, message) = four.fails(&["key", "join", "bugs", &code, "--wait", "600"], 3);
        assert!(message.contains("used or withdrawn"), "{message}");
        assert_eq!(node.stop(), Some(0));
    }

    #[test]
    fn what_is_sealed_follows_the_topology_file() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, node, address) = hub(dir.path());
        let one = Place::new(dir.path(), "one", &topology(&address, ""));
        let id = one.ok(&["insert", "bugs", r#"{"title":"MARKER","teamId":"ios"}"#]);
        one.ok(&["sync", "--timeout", "20"]);
        one.ok(&["key", "create", "bugs"]);
        assert!(hub_holds(&hub, "MARKER"));
        let one = device(dir.path(), "one", &address);
        let (_, message) = one.fails(&["sync", "--timeout", "20"], 4);
        assert!(message.contains("key rule"), "{message}");
        one.ok(&["key", "rule", "bugs"]);
        assert_eq!(hub.ok(&["get", "bugs", &id]), format!(r#"{{"id":"{id}","teamId":"ios"}}"#));
        // The hub wipes its file once nothing else happens.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while hub_holds(&hub, "MARKER") || hub_holds(&hub, "title") {
            assert!(std::time::Instant::now() < deadline, "still there");
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        assert_eq!(node.stop(), Some(0));
    }

    /// What was synced in readable form before there was a keyring goes from the hub as well.
    #[test]
    fn a_keyring_that_is_begun_late_seals_what_was_there_before() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, node, address) = hub(dir.path());
        let one = Place::new(dir.path(), "one", &topology(&address, ""));
        let id = one.ok(&["insert", "bugs", r#"{"title":"MARKER","teamId":"ios"}"#]);
        one.ok(&["sync", "--timeout", "20"]);
        assert!(hub_holds(&hub, "MARKER"));
        let one = device(dir.path(), "one", &address);
        one.ok(&["key", "create", "bugs"]);
        assert_eq!(hub.ok(&["get", "bugs", &id]), format!(r#"{{"id":"{id}","teamId":"ios"}}"#));
        assert!(one.ok(&["key", "show", "bugs", "--json"]).contains(r#""settled":true"#));
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while hub_holds(&hub, "MARKER") || hub_holds(&hub, "title") {
            assert!(std::time::Instant::now() < deadline, "still there");
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        assert_eq!(node.stop(), Some(0));
    }
}
