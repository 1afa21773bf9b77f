//! Access rules between real processes: who is let in, what is refused, and what becomes of it.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value as Json, json};

    use crate::common::{Place, Running};

    const TEAM_RULES: &str = r#"
connect = 'true'
read    = 'true'
insert  = 'record.teamId == "ios"'
update  = 'record.teamId == "ios" && old.teamId == record.teamId'
delete  = 'record.status == "done"'
"#;

    fn hub(dir: &Path, rules: &str) -> (Place, Running, String) {
        let topology = format!(
            "listen = '127.0.0.1:0'\n[auth]\nanonymous = true\n[databases.bugs]\nplaintext = true\n\
             serve = 'bidirectional'\n[databases.bugs.access]\n{rules}"
        );
        let hub = Place::new(dir, "hub", &topology);
        let (node, ready) = hub.up();
        let address = crate::common::address_in(&ready);
        (hub, node, address)
    }

    fn device(dir: &Path, name: &str, address: &str) -> Place {
        let topology = format!(
            "[databases.bugs]\nplaintext = true\npattern = 'hub-and-spoke'\nhub = 'ws://{address}'\n"
        );
        Place::new(dir, name, &topology)
    }

    fn rejected(place: &Place) -> Vec<Json> {
        place.ok(&["rejected", "bugs"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn what_is_refused_is_told_listed_retried_and_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, node, address) = hub(dir.path(), TEAM_RULES);
        let one = device(dir.path(), "one", &address);
        let good = one.ok(&["insert", "bugs", r#"{"teamId":"ios","status":"open"}"#]);
        let bad = one.ok(&["insert", "bugs", r#"{"teamId":"web","title":"lost?"}"#]);
        let synced = one.run(&["sync", "--timeout", "20"]);
        assert_eq!(synced.code, 0, "{}", synced.err);
        assert!(synced.err.contains("warning: bugs: 1 refused writes"), "{}", synced.err);
        let there = format!(r#"{{"id":"{good}","status":"open","teamId":"ios"}}"#);
        assert_eq!(
            [hub.ok(&["export", "bugs"]), one.ok(&["export", "bugs"])],
            [there.clone(), there.clone()]
        );
        let list = rejected(&one);
        assert_eq!(list.len(), 1);
        assert_eq!(list[0]["op"], "insert");
        assert_eq!(list[0]["record"], json!({ "id": bad, "teamId": "web", "title": "lost?" }));
        assert!(list[0]["reason"].as_str().unwrap().contains("insert") && list[0]["at"].is_u64());

        // An update and a deletion: both come back.
        one.ok(&["update", "bugs", &good, r#"{"teamId":"web"}"#]);
        one.ok(&["sync", "--timeout", "20"]);
        one.ok(&["delete", "bugs", &good]);
        let answer = one.ok(&["sync", "--timeout", "20", "--json"]);
        assert_eq!(serde_json::from_str::<Json>(&answer).unwrap()["rejected"]["bugs"], 3);
        assert_eq!([hub.ok(&["export", "bugs"]), one.ok(&["export", "bugs"])], [there.clone(), there]);
        let operations: Vec<Json> = rejected(&one).iter().map(|line| line["op"].clone()).collect();
        assert_eq!(operations, ["insert", "update", "delete"]);

        one.ok(&["rejected", "bugs", "--drop", &good]);
        assert_eq!(one.fails(&["rejected", "bugs", "--drop", &good], 1).0, "not_found");
        one.ok(&["rejected", "bugs", "--retry", &bad]);
        assert!(rejected(&one).is_empty());
        assert!(one.ok(&["export", "bugs"]).contains("lost?"));
        one.ok(&["update", "bugs", &bad, r#"{"teamId":"ios"}"#]);
        one.ok(&["sync", "--timeout", "20"]);
        assert!(rejected(&one).is_empty(), "it was made right before it was pushed again");
        assert_eq!(hub.ok(&["export", "bugs"]), one.ok(&["export", "bugs"]));
        assert_eq!(hub.ok(&["query", "bugs", "--count"]), "2");
        assert_eq!(node.stop(), Some(0));
    }

    #[test]
    fn a_running_node_shows_what_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, _node, address) = hub(dir.path(), TEAM_RULES);
        let one = device(dir.path(), "one", &address);
        let (_running, _) = one.up();
        let mut seen = one.start(&["watch", "bugs"]);
        let good = one.ok(&["insert", "bugs", r#"{"teamId":"ios"}"#]);
        let bad = one.ok(&["insert", "bugs", r#"{"teamId":"web"}"#]);
        let lines: Vec<String> = (0..3).map(|_| seen.line()).collect();
        assert!(lines[0].contains("added") && lines[0].contains(&good), "{lines:?}");
        assert!(lines[1].contains("added") && lines[1].contains(&bad), "{lines:?}");
        assert!(lines[2].contains("removed") && lines[2].contains(&bad), "{lines:?}");
        let synced = one.run(&["sync", "--timeout", "20"]);
        assert!(synced.code == 0 && synced.err.contains("1 refused writes"), "{}", synced.err);
        assert_eq!(rejected(&one).len(), 1);
        let status: Json = serde_json::from_str(&one.ok(&["status", "--json"])).unwrap();
        assert_eq!(status["databases"][0]["rejected"], 1);
        assert_eq!(hub.ok(&["export", "bugs"]), one.ok(&["export", "bugs"]));
        one.ok(&["rejected", "bugs", "--drop", &bad]);
        assert!(rejected(&one).is_empty());
    }

    #[test]
    fn nobody_is_let_in_whom_the_rules_do_not_let_in() {
        for rules in ["", "connect = 'false'", r#"connect = '"admin" in user.roles'"#] {
            let dir = tempfile::tempdir().unwrap();
            let (_hub, _node, address) = hub(dir.path(), rules);
            let one = device(dir.path(), "one", &address);
            one.ok(&["insert", "bugs", "{}"]);
            let (code, message) = one.fails(&["sync", "--timeout", "5"], 4);
            assert!(code == "forbidden" && message.contains("access rule `connect`"), "{message}");
            assert_eq!(one.ok(&["query", "bugs", "--count"]), "1");
        }
    }

    #[test]
    fn a_copied_directory_is_not_another_device() {
        let dir = tempfile::tempdir().unwrap();
        let (_hub, _node, address) = hub(dir.path(), TEAM_RULES);
        let one = device(dir.path(), "one", &address);
        one.ok(&["insert", "bugs", r#"{"teamId":"ios"}"#]);
        one.ok(&["sync", "--timeout", "20"]);
        let two = device(dir.path(), "two", &address);
        std::fs::create_dir_all(two.0.join("data")).unwrap();
        std::fs::copy(one.0.join("data/bugs.blazedb"), two.0.join("data/bugs.blazedb")).unwrap();
        let (code, message) = two.fails(&["sync", "--timeout", "5"], 4);
        assert!(code == "forbidden" && message.contains("belongs to another node"), "{message}");
    }

    #[test]
    fn a_rule_that_is_none_is_named_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(
            dir.path(),
            "hub",
            "listen = '127.0.0.1:0'\n[databases.bugs]\nplaintext = true\nserve = 'bidirectional'\n\
             [databases.bugs.access]\nrelay = 'user.roles =='\n",
        );
        let (_, message) = place.fails(&["up"], 2);
        assert!(message.contains("blazedb.toml:9:") && message.contains("relay"), "{message}");
    }
}
