//! Deletions with real processes: tombstones go, and devices that were away for longer than the lease lose what was deleted.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::common::{Place, address_in, until};

    fn device(dir: &Path, name: &str, address: &str, mode: &str) -> Place {
        let topology = format!(
            "[databases.bugs]\nplaintext = true\npattern = 'hub-and-spoke'\nhub = 'ws://{address}'\nmode = '{mode}'\n"
        );
        Place::new(dir, name, &topology)
    }

    fn titles(place: &Place) -> String {
        let title = |line: &str| {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            record["title"].as_str().unwrap().to_owned()
        };
        let mut titles: Vec<String> = place.ok(&["export", "bugs"]).lines().map(title).collect();
        titles.sort();
        titles.join(" ")
    }

    /// Tombstones that are kept, and those that were dropped.
    fn tombstones(place: &Place) -> (u64, u64) {
        let verified: serde_json::Value =
            serde_json::from_str(&place.ok(&["verify", "bugs", "--json"])).unwrap();
        let count = |key: &str| verified[key].as_u64().unwrap();
        (count("tombstones"), count("tombstones_dropped"))
    }

    /// A device on which no node runs, only `sync` now and then.
    #[test]
    fn a_device_that_only_syncs_drops_them_too() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, _node, address) = crate::common::hub(dir.path(), "bidirectional", &["bugs"]);
        let place = device(dir.path(), "phone", &address, "bidirectional'\ntombstone_lease = '4s");
        let gone = hub.ok(&["insert", "bugs", r#"{"title":"gone"}"#]);
        place.ok(&["sync", "--timeout", "60"]);
        hub.ok(&["delete", "bugs", &gone]);
        let dropped = || {
            place.ok(&["sync", "--timeout", "60"]);
            tombstones(&place) == (0, 1)
        };
        assert!(until(dropped), "{:?}", tombstones(&place));
        assert_eq!((titles(&place), tombstones(&hub)), (String::new(), (1, 0)));
    }

    #[test]
    fn who_was_away_for_longer_than_the_lease_loses_what_was_deleted_and_keeps_what_it_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let hub = Place::new(
            dir.path(),
            "hub",
            "listen = '127.0.0.1:0'\n[auth]\nanonymous = true\n[databases.bugs]\nplaintext = true\n\
             serve = 'bidirectional'\ntombstone_lease = '1s'\n[databases.bugs.access]\npublic = true\n",
        );
        let (_node, ready) = hub.up();
        let address = address_in(&ready);
        let insert = |title: &str| hub.ok(&["insert", "bugs", &format!(r#"{{"title":"{title}"}}"#)]);
        let [_stays, gone, edited] = ["stays", "gone", "edited"].map(insert);
        let phone = device(dir.path(), "phone", &address, "bidirectional");
        let reader = device(dir.path(), "reader", &address, "read-only");
        for place in [&phone, &reader] {
            place.ok(&["sync", "--timeout", "60"]);
            assert_eq!(titles(place), "edited gone stays");
        }
        phone.ok(&["update", "bugs", &edited, r#"{"note":"mine"}"#]);
        phone.ok(&["insert", "bugs", r#"{"title":"own"}"#]);
        hub.ok(&["delete", "bugs", &gone]);
        hub.ok(&["delete", "bugs", &edited]);
        assert!(until(|| tombstones(&hub) == (0, 2)), "{:?}", tombstones(&hub));
        for place in [&phone, &reader] {
            // The deletion comes as an answer to what the device shows.
            let holds = || {
                place.ok(&["sync", "--timeout", "60"]);
                titles(place) == "own stays"
            };
            assert!(until(holds), "{}", titles(place));
        }
        assert_eq!(titles(&hub), "own stays");
        let conflicts = phone.ok(&["conflicts", "bugs"]);
        assert!(conflicts.contains("mine") && conflicts.contains(&edited), "{conflicts}");
        assert!(!conflicts.contains(&gone), "{conflicts}");
        assert_eq!(reader.ok(&["conflicts", "bugs"]), "");
    }
}
