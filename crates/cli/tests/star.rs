//! A parent that decides and its children, each a process of its own: what both show, what the loser finds, what is
//! refused, and what goes on while the parent is away.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value as Json, json};

    use crate::common::{Place, Running};

    const PUBLIC: &str = "public = true";

    /// A node that decides, and serves `bugs`.
    struct Parent {
        place: Place,
        node: Running,
        address: String,
    }

    fn parent_topology(listen: &str, pattern: &str, rules: &str) -> String {
        format!(
            "listen = '{listen}'\n[auth]\nanonymous = true\n[databases.bugs]\nplaintext = true\n\
             serve = 'bidirectional'\n{pattern}\n[databases.bugs.access]\n{rules}\n"
        )
    }

    fn parent(dir: &Path, name: &str, pattern: &str, rules: &str) -> Parent {
        let place = Place::new(dir, name, &parent_topology("127.0.0.1:0", pattern, rules));
        let (node, ready) = place.up();
        let address = crate::common::address_in(&ready);
        Parent { place, node, address }
    }

    const STAR: &str = "pattern = 'star'\nrole = 'parent'";

    fn child(dir: &Path, name: &str, address: &str) -> Place {
        let topology =
            format!("[databases.bugs]\nplaintext = true\npattern = 'star'\nparent = 'ws://{address}'\n");
        Place::new(dir, name, &topology)
    }

    fn children(dir: &Path, address: &str) -> [Place; 4] {
        ["one", "two", "three", "four"].map(|name| child(dir, name, address))
    }

    fn sync(places: &[&Place]) {
        for place in places {
            place.ok(&["sync", "--timeout", "60", "-q"]);
        }
    }

    fn lines(place: &Place, command: &str) -> Vec<Json> {
        place.ok(&[command, "bugs"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn all_the_same(places: &[&Place]) -> String {
        let exports: Vec<String> = places.iter().map(|place| place.ok(&["export", "bugs"])).collect();
        for (place, export) in places.iter().zip(&exports) {
            assert!(*export == exports[0], "{}:\n{export}\n{}", place.0.display(), exports[0]);
        }
        exports[0].clone()
    }

    /// Also: the parent goes away, everybody goes on, and comes back at the same address.
    #[test]
    fn the_parents_decision_is_what_all_show_and_the_loser_finds_its_value() {
        let dir = tempfile::tempdir().unwrap();
        let Parent { place: parent, node, address } = parent(dir.path(), "parent", STAR, PUBLIC);
        let [one, two, three, four] = children(dir.path(), &address);
        let id = one.ok(&["insert", "bugs", r#"{"title":"?","status":"open","votes":{"$counter":0}}"#]);
        sync(&[&one, &two, &three, &four]);

        assert_eq!(node.stop(), Some(0));
        assert_eq!(one.fails(&["sync", "--timeout", "1"], 3).0, "unreachable");
        one.ok(&["update", "bugs", &id, r#"{"title":"first","votes":{"$inc":1}}"#]);
        two.ok(&["update", "bugs", &id, r#"{"title":"second","votes":{"$inc":2}}"#]);
        three.ok(&["update", "bugs", &id, r#"{"status":"closed"}"#]);
        parent.ok(&["update", "bugs", &id, r#"{"votes":{"$inc":4}}"#]);
        let away = four.ok(&["insert", "bugs", r#"{"title":"written while the parent was away"}"#]);

        let topology = parent_topology(&address, STAR, PUBLIC);
        let again = Place::new(dir.path(), "parent", &topology);
        let (node, _) = again.up();
        sync(&[&one, &two, &three, &four, &one, &two, &three]);
        let all = all_the_same(&[&again, &one, &two, &three, &four]);
        assert!(all.contains(&away));
        let record: Json = serde_json::from_str(&one.ok(&["get", "bugs", &id])).unwrap();
        let expected = json!({ "title": "first", "status": "closed", "votes": { "$counter": 7 } });
        for (field, value) in expected.as_object().unwrap() {
            assert_eq!(&record[field], value, "{record}");
        }
        for place in [&two, &again] {
            let lost = lines(place, "conflicts");
            assert_eq!(lost.len(), 1, "{lost:?}");
            assert_eq!((&lost[0]["value"], &lost[0]["kind"]), (&json!("second"), &json!("decided")));
        }
        for place in [&one, &three, &four] {
            assert_eq!(lines(place, "conflicts"), Vec::<Json>::new(), "{}", place.0.display());
        }
        // Having seen the decision, the loser may write again.
        two.ok(&["update", "bugs", &id, r#"{"title":"third"}"#]);
        sync(&[&two, &one, &three, &four]);
        assert!(all_the_same(&[&again, &one, &two, &three, &four]).contains("third"));
        assert_eq!(node.stop(), Some(0));
    }

    #[test]
    fn what_is_refused_is_in_rejected_with_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        let rules = "connect = 'true'\nread = 'true'\ninsert = 'true'\nupdate = 'record.status != \"paid\"'\n\
                     delete = 'true'";
        let Parent { place: parent, node: _node, address } = parent(dir.path(), "parent", STAR, rules);
        let [one, two, three, four] = children(dir.path(), &address);
        let id = one.ok(&["insert", "bugs", r#"{"title":"t","status":"open"}"#]);
        sync(&[&one, &two, &three, &four]);
        // Against a rule.
        two.ok(&["update", "bugs", &id, r#"{"status":"paid"}"#]);
        // A deletion that does not know of a later edit.
        one.ok(&["update", "bugs", &id, r#"{"title":"edited"}"#]);
        three.ok(&["delete", "bugs", &id]);
        // An edit of what is deleted over there by then.
        sync(&[&one, &two, &three, &four, &one, &two, &three]);
        let all = all_the_same(&[&parent, &one, &two, &three, &four]);
        assert!(all.contains("edited") && all.contains("open"), "{all}");
        let refused = |place: &Place| -> Vec<(Json, String)> {
            let line = |line: Json| (line["op"].clone(), line["reason"].as_str().unwrap().to_owned());
            lines(place, "rejected").into_iter().map(line).collect()
        };
        let [(op, reason)] = &refused(&two)[..] else { panic!("{:?}", refused(&two)) };
        assert!(op == "update" && reason.contains("`update`"), "{reason}");
        let [(op, reason)] = &refused(&three)[..] else { panic!("{:?}", refused(&three)) };
        assert!(op == "delete" && reason.contains("had been changed"), "{reason}");
        assert!(refused(&one).is_empty() && refused(&four).is_empty());

        // Made again with knowledge of the edit, the deletion is taken; an edit that missed it gives way.
        three.ok(&["rejected", "bugs", "--retry", &id]);
        four.ok(&["update", "bugs", &id, r#"{"title":"too late"}"#]);
        sync(&[&three, &four, &one, &two]);
        assert_eq!(all_the_same(&[&parent, &one, &two, &three, &four]), "");
        let lost = lines(&four, "conflicts");
        assert_eq!((&lost[0]["value"], &lost[0]["kind"]), (&json!("too late"), &json!("deleted")));
    }

    /// Device -> edge -> master. What the edge decides is provisional until the master has.
    #[test]
    fn an_edge_decides_until_the_master_does() {
        let dir = tempfile::tempdir().unwrap();
        let rules = "connect = 'true'\nread = 'true'\ninsert = 'true'\nupdate = 'record.status != \"paid\"'\n\
                     delete = 'true'\nrelay = 'true'";
        let master = parent(dir.path(), "master", "resolver = 'parent'", rules);
        let up = format!("pattern = 'hierarchical'\nmaster = 'ws://{}'", master.address);
        let [left, right] = ["left", "right"].map(|name| parent(dir.path(), name, &up, PUBLIC));
        let device = |name: &str, edge: &Parent| {
            let topology = format!(
                "[databases.bugs]\nplaintext = true\npattern = 'hierarchical'\nmaster = 'ws://{}'\n",
                edge.address
            );
            Place::new(dir.path(), name, &topology)
        };
        let (one, two, three) = (device("one", &left), device("two", &left), device("three", &right));
        let round = |places: &[&Place]| {
            for place in places {
                sync(&[place, &left.place, &right.place]);
            }
        };
        let id = one.ok(&["insert", "bugs", r#"{"title":"?","status":"open"}"#]);
        round(&[&one, &two, &three, &one]);
        one.ok(&["update", "bugs", &id, r#"{"title":"one"}"#]);
        two.ok(&["update", "bugs", &id, r#"{"title":"two","status":"paid"}"#]);
        three.ok(&["update", "bugs", &id, r#"{"title":"three"}"#]);
        // The right edge comes first at the master, the first device first at its edge.
        round(&[&three, &one, &two, &three, &one, &two]);
        let places = [&master.place, &left.place, &right.place, &one, &two, &three];
        let all = all_the_same(&places);
        assert!(all.contains("three") && all.contains("open"), "{all}");
        for (place, value) in [(&one, "one"), (&two, "two")] {
            let lost = lines(place, "conflicts");
            assert!(lost.iter().any(|line| line["value"] == value), "{lost:?}");
        }
        // The edge was refused what it brought, and the device that wrote it is told so, with the reason.
        for place in [&left.place, &two] {
            let refused = lines(place, "rejected");
            let [write] = &refused[..] else { panic!("{}: {refused:?}", place.0.display()) };
            let reason = write["reason"].as_str().unwrap();
            assert!(write["op"] == "update" && reason.contains("`update`"), "{write}");
            assert!(write.to_string().contains("paid"), "{write}");
        }
        assert!(lines(&one, "rejected").is_empty() && lines(&three, "rejected").is_empty());
    }

    #[test]
    fn a_recorded_trace_split_over_four_children_ends_the_same_everywhere() {
        let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
        let shared = std::env::var_os("BLAZEDB_TRACES").map_or_else(beside, std::path::PathBuf::from);
        let Ok(trace) = std::fs::read_to_string(shared.join("bugs.sample.ndjson")) else {
            return eprintln!("the trace is not here: not replayed");
        };
        let dir = tempfile::tempdir().unwrap();
        let Parent { place: parent, node: _node, address } = parent(dir.path(), "parent", STAR, PUBLIC);
        let all = children(dir.path(), &address);
        let running: Vec<Running> = all.iter().map(|place| place.up().0).collect();
        for (at, place) in all.iter().enumerate() {
            let mine = |line: &&str| {
                let edit: Json = serde_json::from_str(line).unwrap();
                edit["actor"].as_str().unwrap().bytes().map(usize::from).sum::<usize>() % all.len() == at
            };
            let part: Vec<&str> = trace.lines().filter(mine).collect();
            let done = place.run_with(&["replay", "-"], &part.join("\n"));
            assert_eq!(done.code, 0, "{}", done.err);
        }
        let places: Vec<&Place> = all.iter().collect();
        sync(&places);
        sync(&places);
        drop(running);
        sync(&places);
        let end = all_the_same(&[&[&parent], &places[..]].concat());
        assert!(end.lines().count() > 10, "{end}");
    }

    /// The parent's file says another resolver, and the node goes on.
    #[test]
    fn a_resolver_that_changes_decides_from_then_on() {
        let dir = tempfile::tempdir().unwrap();
        let Parent { place: parent, node: _node, address } = parent(dir.path(), "parent", STAR, PUBLIC);
        let [one, two, ..] = children(dir.path(), &address);
        let id = one.ok(&["insert", "bugs", r#"{"title":"?"}"#]);
        sync(&[&one, &two]);
        let race = |no: u32| {
            let edit = |name: &str| format!(r#"{{"title":"{name} {no}"}}"#);
            one.ok(&["update", "bugs", &id, &edit("one")]);
            two.ok(&["update", "bugs", &id, &edit("two")]);
            sync(&[&one, &two, &one]);
            all_the_same(&[&parent, &one, &two])
        };
        assert!(race(1).contains("one 1"), "who came first");
        let file = parent.0.join("blazedb.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let changed = text.replacen("plaintext = true\n", "plaintext = true\nresolver = 'newest'\n", 1);
        assert_ne!(text, changed);
        std::fs::write(&file, changed).unwrap();
        parent.ok(&["apply"]);
        assert!(race(2).contains("two 2"), "what was written last");
        std::fs::write(&file, text).unwrap();
        parent.ok(&["apply"]);
        assert!(race(3).contains("one 3"), "who came first");
    }

    #[test]
    fn a_resolver_without_anybody_to_decide_about_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let place =
            Place::new(dir.path(), "alone", "[databases.bugs]\nplaintext = true\nresolver = 'newest'\n");
        let (_, message) = place.fails(&["up"], 2);
        assert!(message.contains("blazedb.toml:6:") && message.contains("`serve`"), "{message}");
    }
}
