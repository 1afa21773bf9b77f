//! What a device and its hub hold, and the reason that the device gives, when a view, a record or the user changes:
//! each with one device that runs meanwhile and one that was away.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use serde_json::{Value as Json, json};

    use crate::common::{Place, Running};

    const PUBLIC: &str = "[auth]\nanonymous = true\n[databases.bugs]\nplaintext = true\nserve = 'bidirectional'\n\
                          [databases.bugs.access]\npublic = true\n";
    const RULES: &str = "[auth]\nissuers = [{ name = 'self', key_file = 'data/issuer.pub' }]\n\
        [databases.bugs]\nplaintext = true\nserve = 'bidirectional'\n[databases.bugs.access]\nconnect = 'true'\n\
        read = 'record.teamId in user.teams || \"admin\" in user.roles'\ninsert = 'true'\nupdate = 'true'\n";

    /// A hub, a device that runs and one that comes now and then.
    struct World {
        hub: Place,
        online: Place,
        offline: Place,
        address: String,
        token: &'static str,
        _nodes: [Running; 2],
        _dir: tempfile::TempDir,
    }

    impl World {
        fn new(rules: &str, policy: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let hub = Place::new(
                dir.path(),
                "hub",
                &format!("listen = '127.0.0.1:0'\nadmin = '127.0.0.1:0'\n{rules}"),
            );
            let (serving, ready) = hub.up();
            let address = crate::common::address_in(&ready);
            let token = if rules == RULES { "token_file = 'me.jwt'\n" } else { "" };
            let [online, offline] = ["online", "offline"].map(|name| {
                let place = Place::new(dir.path(), name, &topology(token, &address, policy));
                if rules == RULES {
                    put(&place, &hub.ok(&["token", "issue", "--user", "anna", "--team", "ios"]));
                }
                place
            });
            let (running, _) = online.up();
            Self { hub, online, offline, address, token, _nodes: [serving, running], _dir: dir }
        }

        fn public(policy: &str) -> Self {
            Self::new(PUBLIC, policy)
        }

        fn insert(&self, json: Json) -> String {
            self.hub.ok(&["insert", "bugs", &json.to_string()])
        }

        fn update(&self, id: &str, json: Json) {
            self.hub.ok(&["update", "bugs", id, &json.to_string()]);
        }

        /// Both devices hold these, and the hub those.
        fn hold(&self, devices: &str, hub: &str) {
            sync(&self.offline);
            until(&self.online, devices);
            assert_eq!(titles(&self.offline), devices);
            assert_eq!(titles(&self.hub), hub);
        }

        /// Both devices say why they don't hold the record.
        fn gone(&self, id: &str, here: &str, reason: Json) {
            for device in [&self.online, &self.offline] {
                let told: Json =
                    serde_json::from_str(&device.ok(&["explain", "bugs", id, "--json"])).unwrap();
                assert_eq!((&told["here"], &told["removed"]), (&json!(here), &reason), "{told}");
                assert_eq!(device.fails(&["get", "bugs", id], 1).0, "not_found");
            }
        }

        /// Another policy: applied by the running device, found by the other one when it comes.
        fn policy(&self, policy: &str) {
            for device in [&self.online, &self.offline] {
                let name = device.0.file_name().unwrap().to_str().unwrap();
                let text = format!(
                    "[node]\nname = '{name}'\ndata = 'data'\n{}",
                    topology(self.token, &self.address, policy)
                );
                std::fs::write(device.0.join("blazedb.toml"), text).unwrap();
            }
            self.online.ok(&["apply"]);
        }

        fn token(&self, claims: &[&str]) {
            for device in [&self.online, &self.offline] {
                put(device, &self.hub.ok(&[&["token", "issue", "--user", "anna"], claims].concat()));
            }
        }
    }

    fn topology(token: &str, address: &str, policy: &str) -> String {
        format!(
            "{token}[databases.bugs]\nplaintext = true\npattern = 'hub-and-spoke'\n\
             hub = 'ws://{address}'\n[databases.bugs.policy]\n{policy}\n"
        )
    }

    fn put(place: &Place, token: &str) {
        std::fs::write(place.0.join("new.jwt"), token).unwrap();
        std::fs::rename(place.0.join("new.jwt"), place.0.join("me.jwt")).unwrap();
    }

    fn sync(place: &Place) -> Json {
        serde_json::from_str(&place.ok(&["sync", "--timeout", "20", "--json"])).unwrap()
    }

    fn titles(place: &Place) -> String {
        let mut titles: Vec<String> = place
            .ok(&["export", "bugs"])
            .lines()
            .map(|line| serde_json::from_str::<Json>(line).unwrap()["title"].as_str().unwrap().to_owned())
            .collect();
        titles.sort();
        titles.join(" ")
    }

    fn until(place: &Place, wanted: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while titles(place) != wanted {
            assert!(Instant::now() < deadline, "{} instead of {wanted}", titles(place));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn removed(place: &Place) -> Json {
        let status: Json = serde_json::from_str(&place.ok(&["status", "--json"])).unwrap();
        status["databases"][0]["removed"].clone()
    }

    #[test]
    fn a_filter_is_widened_narrowed_and_replaced() {
        let world = World::public("where = 'priority > 5'");
        let [a, b, c] = [("a", 1), ("b", 5), ("c", 9)]
            .map(|(title, priority)| world.insert(json!({ "title": title, "priority": priority })));
        world.hold("c", "a b c");
        world.policy("where = 'priority > 3'");
        world.hold("b c", "a b c");
        assert_eq!(removed(&world.online), json!({ "left_filter": 0, "access_revoked": 0 }));
        world.policy("where = 'priority > 7'");
        let synced = sync(&world.offline);
        assert_eq!(synced["removed"]["bugs"], json!({ "left_filter": 1, "access_revoked": 0 }));
        world.hold("c", "a b c");
        world.gone(&b, "removed", json!("left_filter"));
        world.policy("where = 'priority < 3'");
        world.hold("a", "a b c");
        world.gone(&c, "removed", json!("left_filter"));
        world.gone(&b, "removed", json!("left_filter"));
        assert_eq!(removed(&world.online), json!({ "left_filter": 2, "access_revoked": 0 }));
        world.policy("");
        world.hold("a b c", "a b c");
        assert!(world.online.ok(&["get", "bugs", &a]).contains(r#""priority":1"#));
    }

    #[test]
    fn a_record_is_edited_out_and_in_and_deleted_out_of_view() {
        let world = World::public("where = 'status != \"archived\"'");
        let [a, b, c] =
            ["a", "b", "c"].map(|title| world.insert(json!({ "title": title, "status": "open" })));
        world.hold("a b c", "a b c");
        let mut seen = world.online.start(&["watch", "bugs"]);
        (0..3).for_each(|_| drop(seen.line()));
        world.update(&a, json!({ "status": "archived" }));
        assert_eq!(
            serde_json::from_str::<Json>(&seen.line()).unwrap(),
            json!({ "kind": "removed", "record": { "id": a }, "reason": "left_filter" })
        );
        world.hold("b c", "a b c");
        world.gone(&a, "removed", json!("left_filter"));
        let (_, message) = world.online.fails(&["get", "bugs", &a], 1);
        assert!(message.contains(&a), "{message}");
        assert!(world.online.run(&["get", "bugs", &a]).err.contains("left the filter"));
        world.update(&a, json!({ "status": "open", "note": "back" }));
        assert!(seen.line().contains(r#""kind":"added""#));
        world.hold("a b c", "a b c");
        assert!(world.offline.ok(&["get", "bugs", &a]).contains("back"));

        // Out of view and then deleted: who runs sees it leave, and is not told of the deletion.
        world.update(&b, json!({ "status": "archived" }));
        until(&world.online, "a c");
        sync(&world.offline);
        world.hub.ok(&["delete", "bugs", &b]);
        world.hub.ok(&["delete", "bugs", &c]);
        world.hold("a", "a");
        world.gone(&b, "removed", json!("left_filter"));
        world.gone(&c, "deleted", Json::Null);
        let lines = [seen.line(), seen.line()];
        assert!(lines[0].contains("left_filter") && lines[1].contains(r#""reason":"deleted""#), "{lines:?}");
    }

    #[test]
    fn the_team_of_a_record_changes_under_a_policy_and_under_a_rule() {
        let world = World::public("teams = ['ios']");
        let a = world.insert(json!({ "title": "a", "teamId": "ios" }));
        let b = world.insert(json!({ "title": "b", "teamId": "web" }));
        world.hold("a", "a b");
        world.update(&a, json!({ "teamId": "web" }));
        world.update(&b, json!({ "teamId": "ios" }));
        world.hold("b", "a b");
        world.gone(&a, "removed", json!("left_filter"));

        let world = World::new(RULES, "");
        let a = world.insert(json!({ "title": "a", "teamId": "ios" }));
        let b = world.insert(json!({ "title": "b", "teamId": "web" }));
        world.hold("a", "a b");
        world.update(&a, json!({ "teamId": "web" }));
        world.update(&b, json!({ "teamId": "ios" }));
        world.hold("b", "a b");
        world.gone(&a, "removed", json!("access_revoked"));
        assert_eq!(removed(&world.online), json!({ "left_filter": 0, "access_revoked": 1 }));
    }

    #[test]
    fn a_user_leaves_a_team_gets_a_role_and_a_token_that_expires() {
        let world = World::new(RULES, "");
        let ids = ["ios", "web", "ops"].map(|team| world.insert(json!({ "title": team, "teamId": team })));
        world.token(&["--team", "ios", "web"]);
        world.hold("ios web", "ios ops web");
        world.token(&["--team", "web"]);
        world.hold("web", "ios ops web");
        world.gone(&ids[0], "removed", json!("access_revoked"));
        // What was never shown is not known at all.
        world.gone(&ids[2], "unknown", Json::Null);
        world.token(&["--team", "web", "--role", "admin"]);
        world.hold("ios ops web", "ios ops web");

        // A token that is over: what was shown stays, nothing comes any more, and the link says why.
        world.token(&["--team", "web", "--role", "admin", "--ttl", "1s"]);
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let status: Json = serde_json::from_str(&world.online.ok(&["status", "--json"])).unwrap();
            let link = &status["links"][0];
            let message = link["error"]["message"].as_str().unwrap_or_default();
            if link["state"] == "refused" && message.contains("expired") {
                break;
            }
            assert!(Instant::now() < deadline, "{link}");
            std::thread::sleep(Duration::from_millis(100));
        }
        // The token of the other device was issued a moment later: it is over by then as well.
        std::thread::sleep(Duration::from_secs(3));
        world.insert(json!({ "title": "late", "teamId": "web" }));
        let (code, message) = world.offline.fails(&["sync", "--timeout", "20", "-q"], 4);
        assert!(code == "unauthenticated" && message.contains("expired"), "{message}");
        for device in [&world.online, &world.offline] {
            assert_eq!(titles(device), "ios ops web");
        }
        world.token(&["--team", "web"]);
        world.hold("late web", "ios late ops web");
    }

    #[test]
    fn edits_that_are_not_pushed_yet_survive_when_their_record_leaves() {
        let world = World::public("teams = ['ios']");
        let [a, b] = ["a", "b"].map(|title| world.insert(json!({ "title": title, "teamId": "ios" })));
        world.hold("a b", "a b");
        // At the same time on both sides.
        world.online.ok(&["update", "bugs", &a, r#"{"online":"mine"}"#]);
        world.update(&a, json!({ "teamId": "web" }));
        world.offline.ok(&["update", "bugs", &b, r#"{"offline":"mine"}"#]);
        world.update(&b, json!({ "teamId": "web" }));
        sync(&world.offline);
        world.hold("", "a b");
        for (id, field) in [(&a, "online"), (&b, "offline")] {
            world.gone(id, "removed", json!("left_filter"));
            assert!(world.hub.ok(&["get", "bugs", id]).contains(field), "no edit is lost");
        }
        // On a link that pushes nothing the record stays, and that is told.
        let reader = Place::new(
            world.hub.0.parent().unwrap(),
            "reader",
            &topology("", &world.address, "teams = ['ios']")
                .replace("[databases.bugs.policy]", "mode = 'read-only'\n[databases.bugs.policy]"),
        );
        let c = world.insert(json!({ "title": "c", "teamId": "ios" }));
        sync(&reader);
        reader.ok(&["update", "bugs", &c, r#"{"note":"mine"}"#]);
        world.update(&c, json!({ "teamId": "web" }));
        let synced = sync(&reader);
        assert_eq!(synced["leaving"]["bugs"], 1, "{synced}");
        assert!(reader.ok(&["get", "bugs", &c]).contains("mine"));
        let told: Json = serde_json::from_str(&reader.ok(&["explain", "bugs", &c, "--json"])).unwrap();
        assert_eq!(told["leaving"][0]["reason"], "left_filter", "{told}");
    }
}
