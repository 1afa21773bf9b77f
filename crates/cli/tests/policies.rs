//! Policies with real processes: what a device is shown, what leaves it and why.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::{Duration, Instant};

    use crate::common::{Place, Running};

    struct World {
        hub: Place,
        _node: Running,
        address: String,
        dir: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let topology = "listen = '127.0.0.1:0'\nadmin = '127.0.0.1:0'\n[auth]\nanonymous = true\n\
                            [databases.bugs]\nplaintext = true\nserve = 'bidirectional'\n\
                            [databases.bugs.access]\npublic = true\n";
            let hub = Place::new(dir.path(), "hub", topology);
            let (node, ready) = hub.up();
            let address = crate::common::address_in(&ready);
            Self { hub, _node: node, address, dir }
        }

        /// A device, or what it is told from now on.
        fn device(&self, name: &str, mode: &str, policy: &str) -> Place {
            device(self.dir.path(), name, &self.address, mode, policy)
        }

        fn insert(&self, json: &str) -> String {
            self.hub.ok(&["insert", "bugs", json])
        }
    }

    fn device(dir: &Path, name: &str, address: &str, mode: &str, policy: &str) -> Place {
        let topology = format!(
            "[databases.bugs]\nplaintext = true\npattern = 'hub-and-spoke'\nhub = 'ws://{address}'\nmode = '{mode}'\n\
             [databases.bugs.policy]\n{policy}\n"
        );
        Place::new(dir, name, &topology)
    }

    fn sync(place: &Place) {
        place.ok(&["sync", "--timeout", "20"]);
    }

    fn titles(place: &Place) -> String {
        let mut titles: Vec<String> = place
            .ok(&["export", "bugs"])
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|record| record["title"].as_str().unwrap().to_owned())
            .collect();
        titles.sort();
        titles.join(" ")
    }

    /// Waits until a running device shows these.
    fn until(place: &Place, wanted: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while titles(place) != wanted {
            assert!(Instant::now() < deadline, "{} instead of {wanted}", titles(place));
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    #[test]
    fn only_what_matches_arrives_and_what_leaves_the_filter_goes_also_for_one_who_was_away() {
        let world = World::new();
        let a = world.insert(r#"{"title":"a","teamId":"ios","status":"open"}"#);
        let b = world.insert(r#"{"title":"b","teamId":"ios","status":"open"}"#);
        let c = world.insert(r#"{"title":"c","teamId":"web","status":"open"}"#);
        let d = world.insert(r#"{"title":"d","teamId":"ios","status":"archived"}"#);
        let phone =
            world.device("phone", "bidirectional", "teams = ['ios']\nwhere = 'status != \"archived\"'");
        sync(&phone);
        assert_eq!(titles(&phone), "a b");
        // While it is away: one leaves by its status, one by its team, one enters by each, one is deleted unseen.
        world.hub.ok(&["update", "bugs", &a, r#"{"status":"archived"}"#]);
        world.hub.ok(&["update", "bugs", &b, r#"{"teamId":"web"}"#]);
        world.hub.ok(&["update", "bugs", &c, r#"{"teamId":"ios"}"#]);
        world.hub.ok(&["update", "bugs", &d, r#"{"status":"open"}"#]);
        sync(&phone);
        assert_eq!(titles(&phone), "c d");
        assert_eq!(titles(&world.hub), "a b c d");
        world.hub.ok(&["delete", "bugs", &a]);
        world.hub.ok(&["delete", "bugs", &c]);
        sync(&phone);
        assert_eq!(titles(&phone), "d");
        assert_eq!(phone.fails(&["get", "bugs", &b], 1).0, "not_found");
    }

    #[test]
    fn a_filter_that_is_widened_narrowed_or_replaced_takes_effect_at_the_next_contact() {
        let world = World::new();
        for (title, priority) in [("a", 1), ("b", 5), ("c", 9)] {
            world.insert(&format!(r#"{{"title":"{title}","priority":{priority}}}"#));
        }
        let filters = [
            ("priority > 6", "c"),
            ("priority > 3", "b c"),
            ("priority < 3", "a"),
            ("priority > 0", "a b c"),
        ];
        for (filter, wanted) in filters {
            let phone = world.device("phone", "bidirectional", &format!("where = '{filter}'"));
            sync(&phone);
            assert_eq!(titles(&phone), wanted, "{filter}");
        }
        let phone = world.device("phone", "bidirectional", "");
        sync(&phone);
        assert_eq!(titles(&phone), "a b c");
        assert_eq!(titles(&world.hub), "a b c");
    }

    #[test]
    fn edits_that_take_a_record_out_of_the_filter_arrive_first() {
        let world = World::new();
        let a = world.insert(r#"{"title":"a","teamId":"ios"}"#);
        let b = world.insert(r#"{"title":"b","teamId":"ios"}"#);
        let phone = world.device("phone", "bidirectional", "teams = ['ios']");
        sync(&phone);
        // Its own edit takes one out; another leaves while an edit of it is not pushed yet.
        phone.ok(&["update", "bugs", &a, r#"{"teamId":"web"}"#]);
        phone.ok(&["update", "bugs", &b, r#"{"note":"mine"}"#]);
        world.hub.ok(&["update", "bugs", &b, r#"{"teamId":"web"}"#]);
        sync(&phone);
        sync(&phone);
        assert_eq!(titles(&phone), "");
        assert!(world.hub.ok(&["get", "bugs", &a]).contains(r#""teamId":"web""#));
        assert!(world.hub.ok(&["get", "bugs", &b]).contains(r#""note":"mine""#), "no edit is lost");
        // What never matched is never sent, and stays.
        phone.ok(&["insert", "bugs", r#"{"title":"own","teamId":"web"}"#]);
        sync(&phone);
        assert_eq!((titles(&phone).as_str(), titles(&world.hub).as_str()), ("own", "a b"));
    }

    #[test]
    fn excluded_fields_travel_in_neither_direction_and_are_not_removed() {
        let world = World::new();
        let a = world.insert(r#"{"title":"a","big":"theirs"}"#);
        let phone = world.device("phone", "bidirectional", "exclude_fields = ['big']");
        sync(&phone);
        assert!(!phone.ok(&["get", "bugs", &a]).contains("big"));
        phone.ok(&["update", "bugs", &a, r#"{"title":"A","big":"mine"}"#]);
        sync(&phone);
        let hub = world.hub.ok(&["get", "bugs", &a]);
        assert!(hub.contains(r#""big":"theirs""#) && hub.contains(r#""title":"A""#), "{hub}");
        assert!(phone.ok(&["get", "bugs", &a]).contains(r#""big":"mine""#));
    }

    #[test]
    fn a_kept_record_stays_and_one_with_local_edits_that_go_nowhere_too() {
        let world = World::new();
        let a = world.insert(r#"{"title":"a","teamId":"ios"}"#);
        let keeper = world.device("keeper", "bidirectional", "teams = ['ios']\non_left_filter = 'keep'");
        let reader = world.device("reader", "read-only", "teams = ['ios']");
        [&keeper, &reader].into_iter().for_each(sync);
        reader.ok(&["update", "bugs", &a, r#"{"note":"mine"}"#]);
        world.hub.ok(&["update", "bugs", &a, r#"{"teamId":"web"}"#]);
        [&keeper, &reader].into_iter().for_each(sync);
        assert_eq!((titles(&keeper).as_str(), titles(&reader).as_str()), ("a", "a"));
        assert!(reader.ok(&["get", "bugs", &a]).contains("mine"));
        assert!(!world.hub.ok(&["get", "bugs", &a]).contains("mine"));
    }

    #[test]
    fn a_device_that_only_reports_lets_go_of_what_has_arrived() {
        let world = World::new();
        let phone =
            world.device("phone", "write-only", "release_after_ack = true\nwhere = 'title != \"own\"'");
        phone.ok(&["insert", "bugs", r#"{"title":"own"}"#]);
        phone.ok(&["insert", "bugs", r#"{"title":"a"}"#]);
        sync(&phone);
        phone.ok(&["insert", "bugs", r#"{"title":"b"}"#]);
        sync(&phone);
        let (_node, _) = phone.up();
        phone.ok(&["insert", "bugs", r#"{"title":"c"}"#]);
        until(&phone, "own");
        until(&world.hub, "a b c");
    }

    /// Changed while it runs, on the open session: nothing goes any more, what it gets least of all.
    #[test]
    fn a_device_that_no_longer_lets_go_keeps_what_it_has_and_gets() {
        let world = World::new();
        let phone = world.device("phone", "write-only", "release_after_ack = true");
        let (_node, _) = phone.up();
        phone.ok(&["insert", "bugs", r#"{"title":"a"}"#]);
        until(&world.hub, "a");
        until(&phone, "");
        world.insert(r#"{"title":"b"}"#);
        world.device("phone", "bidirectional", "");
        phone.ok(&["apply"]);
        until(&phone, "b");
        for (title, hub, here) in [("c", "a b c", "b c"), ("d", "a b c d", "b c d")] {
            phone.ok(&["insert", "bugs", &format!(r#"{{"title":"{title}"}}"#)]);
            until(&world.hub, hub);
            sync(&phone);
            assert_eq!(titles(&phone), here);
        }
        assert_eq!(titles(&phone), "b c d");
    }

    #[test]
    fn a_running_device_sees_records_come_and_go() {
        let world = World::new();
        let phone = world.device("phone", "bidirectional", "where = 'priority > 5'");
        let (_node, _) = phone.up();
        let a = world.insert(r#"{"title":"a","priority":9}"#);
        let b = world.insert(r#"{"title":"b","priority":1}"#);
        until(&phone, "a");
        world.hub.ok(&["update", "bugs", &b, r#"{"priority":6}"#]);
        until(&phone, "a b");
        world.hub.ok(&["update", "bugs", &a, r#"{"priority":2}"#]);
        until(&phone, "b");
        phone.ok(&["update", "bugs", &b, r#"{"priority":0}"#]);
        until(&phone, "");
        world.hub.ok(&["update", "bugs", &a, r#"{"priority":7}"#]);
        until(&phone, "a");
        world.hub.ok(&["delete", "bugs", &a]);
        until(&phone, "");
        assert_eq!(titles(&world.hub), "b");
    }

    #[test]
    fn a_filter_that_is_none_is_refused_with_its_place() {
        let world = World::new();
        let phone = world.device("phone", "bidirectional", "where = 'priority >'");
        let (_, message) = phone.fails(&["sync", "--timeout", "2"], 2);
        assert!(message.contains("where") || message.contains("column"), "{message}");
    }
}
