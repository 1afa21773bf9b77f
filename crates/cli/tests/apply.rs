//! `blazedb apply`: a running node becomes what its changed topology file declares.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

mod common;

use std::time::{Duration, Instant};

use common::{Place, Running};
use serde_json::Value as Json;

const SERVED: &str = "listen = '127.0.0.1:0'\n[auth]\nanonymous = true\n[databases.bugs]\nplaintext = true\n\
                      serve = 'bidirectional'\naccess = { public = true }\n";

struct World {
    _dir: tempfile::TempDir,
    hub: Place,
    device: Place,
    address: String,
    _nodes: [Running; 2],
}

impl World {
    fn new() -> Self {
        Self::with("")
    }

    /// With these lines in the device's topology file from the start.
    fn with(link: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let hub = Place::new(dir.path(), "hub", SERVED);
        let (hub_node, ready) = hub.up();
        let address = ready.split_once("listen=").unwrap().1.split(' ').next().unwrap().to_owned();
        let device = Place::new(dir.path(), "device", "");
        let mut world = Self { _dir: dir, hub, device, address, _nodes: [hub_node, World::nobody()] };
        world.declare(link);
        world._nodes[1] = world.device.up().0;
        world
    }

    fn nobody() -> Running {
        let dir = tempfile::tempdir().unwrap();
        Place::new(dir.path(), "nobody", "").start(&["--version"])
    }

    /// Writes the device's topology file: a link to the hub, with these lines.
    fn declare(&self, link: &str) {
        let text = format!(
            "[node]\nname = 'device'\ndata = 'data'\n[databases.bugs]\nplaintext = true\n\
             pattern = 'hub-and-spoke'\nhub = 'ws://{}'\n{link}\n",
            self.address
        );
        std::fs::write(self.device.0.join("blazedb.toml"), text).unwrap();
    }

    fn apply(&self, args: &[&str]) -> Vec<Json> {
        let answer = self.device.ok(&[&["apply", "--json"], args].concat());
        let answer: Json = serde_json::from_str(&answer).unwrap();
        answer["actions"].as_array().unwrap().clone()
    }

    fn link(&self) -> Json {
        let status: Json = serde_json::from_str(&self.device.ok(&["status", "--json"])).unwrap();
        status["links"][0].clone()
    }

    /// Waits for an epoch of the link, and until everything is where it belongs.
    fn at_epoch(&self, epoch: u64) -> Json {
        let gives_up = Instant::now() + Duration::from_secs(20);
        while self.link()["epoch"].as_u64() < Some(epoch) {
            assert!(Instant::now() < gives_up, "{}", self.link());
            std::thread::sleep(Duration::from_millis(20));
        }
        self.device.ok(&["sync"]);
        self.link()
    }

    fn count(&self, place: &Place, filter: &str) -> u64 {
        place.ok(&["query", "bugs", filter, "--count"]).parse().unwrap()
    }
}

fn insert(place: &Place, level: u64) {
    place.ok(&["insert", "bugs", &format!("{{\"level\": {level}}}")]);
}

#[test]
fn modes_and_filters_change_on_one_session_and_the_plan_says_what_is_sent_and_removed() {
    let world = World::new();
    for level in 0..8 {
        insert(&world.hub, level);
    }
    world.device.ok(&["sync"]);
    assert_eq!(world.apply(&["--dry-run"]), Vec::<Json>::new());

    world.declare("mode = 'read-only'");
    let plan = world.apply(&["--dry-run"]);
    assert_eq!((plan.len(), &plan[0]["changes"]), (1, &serde_json::json!(["mode"])), "{plan:?}");
    assert_eq!(world.link()["epoch"], 0, "nothing was done");
    assert_eq!(world.apply(&[]), plan);
    world.at_epoch(1);
    for level in 20..25 {
        insert(&world.device, level);
    }
    insert(&world.hub, 8);
    world.device.ok(&["sync"]);
    assert_eq!((world.count(&world.hub, "true"), world.count(&world.device, "true")), (9, 14));

    // Both ways again, with another filter: the hub takes back what the device is not to see.
    world.declare("[databases.bugs.policy]\nwhere = 'level > 4'");
    let plan = world.apply(&[]);
    assert_eq!(plan[0]["removes"]["records"], 5, "{plan:?}");
    let link = world.at_epoch(2);
    assert_eq!(world.count(&world.device, "true"), 9, "{link}");
    assert_eq!(world.count(&world.device, "level <= 4"), 0);
    assert_eq!(world.count(&world.hub, "true"), 14);

    // Records that the filter kept here, and that another one lets go.
    for level in [1, 2, 3] {
        insert(&world.device, level);
    }
    world.device.ok(&["sync"]);
    assert_eq!(world.count(&world.hub, "true"), 14);
    world.declare("[databases.bugs.policy]\nwhere = 'level <= 2 || level > 22'");
    let before = world.link();
    let plan = world.apply(&["--dry-run"]);
    let (sends, removes) = (&plan[0]["sends"], &plan[0]["removes"]);
    // Two that come into view, and three that were written here, told once more before they are taken away.
    assert_eq!(
        (&sends["records"], &sends["at_most"], &removes["records"]),
        (&5.into(), &false.into(), &7.into())
    );
    let held = world.count(&world.device, "level > 4 && level <= 22");
    assert_eq!(world.apply(&[]), plan);
    let after = world.at_epoch(3);
    let sent = |link: &Json| link["changes_sent"].as_u64().unwrap();
    assert_eq!(sent(&after) - sent(&before), 5, "as it was said");
    assert_eq!((held, world.count(&world.device, "level > 4 && level <= 22")), (7, 0), "as it was said");
    assert_eq!((&after["sessions"], &after["state"]), (&1.into(), &"idle".into()), "{after}");
}

#[test]
fn databases_and_links_come_and_go_and_what_stays_is_not_touched() {
    let world = World::new();
    insert(&world.hub, 1);
    world.device.ok(&["sync"]);
    world.declare("indexes = ['level']\n[databases.notes]\nplaintext = true");
    let texts: Vec<Json> = world.apply(&[]).into_iter().map(|action| action["action"].clone()).collect();
    assert_eq!(texts, ["index", "open-database"]);
    world.device.ok(&["insert", "notes", "{\"a\": 1}"]);
    world.declare("indexes = ['level']\n[databases.notes]\nplaintext = true\ndurability = 'normal'");
    let texts: Vec<Json> = world.apply(&[]).into_iter().map(|action| action["action"].clone()).collect();
    assert_eq!(texts, ["close-database", "open-database"]);
    assert_eq!(world.device.ok(&["query", "notes", "--count"]), "1");
    world.declare("indexes = ['level']");
    world.apply(&[]);
    assert!(world.device.ok(&["status"]).contains("bugs"));
    assert!(!world.device.ok(&["status"]).contains("notes"));
    let link = world.link();
    assert_eq!((&link["sessions"], &link["epoch"]), (&1.into(), &0.into()), "{link}");
    world.declare("mode = 'local-only'");
    assert_eq!(world.apply(&[])[0]["action"], "close-link");
    assert_eq!(world.link(), Json::Null);
    world.declare("");
    let opened = world.apply(&[]);
    // What is there already was brought over the same link before.
    let sends = &opened[0]["sends"];
    assert_eq!((&opened[0]["action"], &sends["at_most"]), (&"open-link".into(), &false.into()));
    assert_eq!(sends["records"], 0, "{opened:?}");
    insert(&world.device, 2);
    world.device.ok(&["sync"]);
    assert_eq!(world.count(&world.hub, "true"), 2);
}

#[test]
fn what_cannot_be_applied_changes_nothing_and_says_where() {
    let world = World::new();
    world.device.ok(&["sync"]);
    for (lines, place) in [
        ("mode = 'sideways'", "blazedb.toml:8:8"),
        ("nonsense = 1", "blazedb.toml:8:1"),
        ("[databases.bugs.policy]\nwhere = 'level >'", "blazedb.toml:9:"),
        ("remote_key = 'none'", "remote_key"),
        ("[databases.other]\npassword_env = 'NOT_THERE'", "other"),
    ] {
        world.declare(&format!("{lines}\n"));
        let (code, message) = world.device.fails(&["apply"], 2);
        assert!(message.contains(place), "{code} {message}");
    }
    world.declare("");
    let file = world.device.0.join("blazedb.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("[node]\n", "[node]\nlisten = '127.0.0.1:0'\n")).unwrap();
    let (_, message) = world.device.fails(&["apply"], 2);
    assert!(message.contains("node.listen"), "{message}");
    world.declare("");
    assert_eq!(world.apply(&[]), Vec::<Json>::new());
    let link = world.link();
    assert_eq!((&link["sessions"], &link["epoch"]), (&1.into(), &0.into()), "{link}");
}

/// A hub and a device that were filled apart: they share some records and each has some of its own.
fn filled_apart() -> World {
    let world = World::with("mode = 'local-only'");
    let record =
        |level: u64| format!("{{\"id\":\"00000000-0000-4000-8000-{level:012}\",\"level\":{level}}}\n");
    let fill = |place: &Place, levels: &[u64]| {
        let lines: String = levels.iter().map(|level| record(*level)).collect();
        assert_eq!(place.run_with(&["import", "bugs", "-"], &lines).code, 0);
    };
    fill(&world.hub, &[0, 1, 2, 3, 4, 5, 6, 7, 20, 21]);
    fill(&world.device, &[0, 1, 5, 6, 40, 41, 42, 43, 44]);
    world
}

fn id(level: u64) -> String {
    format!("00000000-0000-4000-8000-{level:012}")
}

impl World {
    /// Says what applying the declared topology would do, does it, and holds the one against the other. Answers what
    /// was sent, received and removed.
    fn as_predicted(&self) -> [u64; 3] {
        let figures = |place: &Place| {
            let status: Json = serde_json::from_str(&place.ok(&["status", "--json"])).unwrap();
            let removed = &status["databases"][0]["removed"];
            let removed = ["left_filter", "access_revoked"].map(|why| removed[why].as_u64().unwrap());
            (status["links"][0].clone(), removed.iter().sum::<u64>())
        };
        let hub =
            || serde_json::from_str::<Json>(&self.hub.ok(&["status", "--json"])).unwrap()["node"].clone();
        let (device_before, hub_before) = (figures(&self.device), hub());
        let plan = self.apply(&["--dry-run"]);
        assert_eq!(self.apply(&["--dry-run"]), plan, "a plan changes nothing");
        assert_eq!((figures(&self.device).1, hub()), (device_before.1, hub_before), "nor at the hub");
        assert_eq!(self.apply(&[]), plan);
        let opened = plan.iter().find(|action| action["action"] == "open-link").unwrap_or(&plan[0]);
        let same_link = opened["action"] == "change-link";
        self.device.ok(&["sync"]);
        let (link, removed) = figures(&self.device);
        let count = |key: &str| {
            let before = if same_link { device_before.0[key].as_u64().unwrap() } else { 0 };
            link[key].as_u64().unwrap_or_default() - before
        };
        let predicted = |what: &str| opened[what]["records"].as_u64().unwrap_or_default();
        let happened = [count("changes_sent"), count("changes_received"), removed - device_before.1];
        assert_ne!(opened["sends"]["at_most"], true, "{plan:?}");
        assert_eq!(happened[2], predicted("removes"), "{plan:?} {link}");
        assert_eq!(happened[0], predicted("sends"), "{plan:?} {link}");
        // What takes records away is received as well, some of it twice.
        if happened[2] == 0 {
            assert_eq!(happened[1], predicted("receives"), "{plan:?} {link}");
        }
        happened
    }
}

#[test]
fn the_plan_says_exactly_what_a_link_sends_that_is_opened() {
    let world = filled_apart();
    world.declare("");
    assert_eq!(world.as_predicted(), [5, 6, 0]);
    // It went as far as it goes: opened again, it has nothing to say.
    world.declare("mode = 'local-only'");
    world.apply(&[]);
    insert(&world.device, 50);
    insert(&world.hub, 51);
    insert(&world.hub, 52);
    world.declare("");
    assert_eq!(world.as_predicted(), [1, 2, 0]);
    assert_eq!(world.count(&world.hub, "true"), 18);
    assert_eq!(world.count(&world.device, "true"), 18);
}

#[test]
fn the_plan_says_exactly_what_a_link_sends_and_takes_away_that_is_opened_with_a_filter() {
    let world = filled_apart();
    world.declare("[databases.bugs.policy]\nwhere = 'level > 4 && level != 43'");
    let [sent, received, removed] = world.as_predicted();
    assert_eq!((sent, received, removed), (4, 3, 0));
    // What leaves the filter at the hub while nobody listens is taken away; with another filter, what it leaves out.
    world.declare("mode = 'local-only'");
    world.apply(&[]);
    world.hub.ok(&["update", "bugs", &id(20), r#"{"level": 2}"#]);
    world.device.ok(&["update", "bugs", &id(40), r#"{"level": 45}"#]);
    world.declare("[databases.bugs.policy]\nwhere = 'level > 5 && level != 43'");
    let [sent, _, removed] = world.as_predicted();
    assert!(sent >= 1 && removed >= 2, "{sent} {removed}");
    assert_eq!(world.count(&world.device, "level == 5 || level == 20 || level == 2"), 0);
    assert_eq!(world.count(&world.hub, "level == 45"), 1);
}

#[test]
fn the_plan_says_exactly_what_goes_one_way_and_what_a_change_of_the_way_sends() {
    let world = filled_apart();
    world.declare("mode = 'read-only'");
    assert_eq!(world.as_predicted(), [0, 6, 0]);
    world.declare("mode = 'bidirectional'");
    let plan = world.apply(&["--dry-run"]);
    assert_eq!((&plan[0]["action"], &plan[0]["sends"]["records"]), (&"change-link".into(), &5.into()));
    assert_eq!(world.as_predicted()[0], 5);

    let world = filled_apart();
    world.declare("mode = 'write-only'");
    // Nobody compares: the hub may not tell what it has.
    assert_eq!(world.as_predicted(), [9, 0, 0]);
    assert_eq!((world.count(&world.hub, "true"), world.count(&world.device, "true")), (15, 9));
}

#[test]
fn the_plan_says_exactly_what_another_hub_is_sent_and_that_one_is_not_there() {
    let mut world = filled_apart();
    world.declare("");
    world.as_predicted();
    let other = Place::new(world._dir.path(), "other", SERVED);
    let (node, ready) = other.up();
    let record = format!("{{\"id\":\"{}\",\"level\":41}}\n", id(41));
    assert_eq!(other.run_with(&["import", "bugs", "-"], &record).code, 0);
    insert(&other, 99);
    world.address = ready.split_once("listen=").unwrap().1.split(' ').next().unwrap().to_owned();
    world.declare("");
    let plan = world.apply(&["--dry-run"]);
    let actions: Vec<&Json> = plan.iter().map(|action| &action["action"]).collect();
    assert_eq!(actions, ["close-link", "open-link"]);
    assert_eq!(world.as_predicted(), [14, 1, 0]);
    // Without a link nothing is sent, and everything stays.
    let held = world.count(&world.device, "true");
    world.declare("mode = 'local-only'");
    assert_eq!(world.apply(&["--dry-run"])[0]["action"], "close-link");
    world.apply(&[]);
    assert_eq!(world.count(&world.device, "true"), held);
    // Nobody answers: the plan says so, and how many there are at most.
    drop(node);
    world.declare("");
    let plan = world.apply(&["--dry-run"]);
    let sends = &plan[0]["sends"];
    assert_eq!((&sends["at_most"], &sends["records"]), (&true.into(), &held.into()));
    assert!(plan[0]["unasked"].as_str().unwrap().contains(&world.address), "{plan:?}");
    assert!(world.device.ok(&["apply", "--dry-run"]).contains("was not asked"));
}

/// A database that is opened anew keeps what it is related to, and is searched as the file now says.
#[test]
fn a_database_that_is_opened_anew_keeps_its_relations_and_is_searched_in_new_fields() {
    let dir = tempfile::tempdir().unwrap();
    let declared = |search: &str| {
        format!(
            "[node]\nname = 'node'\ndata = 'data'\n[databases.bugs]\nplaintext = true\nsearch = [{search}]\n\
             [databases.comments]\nplaintext = true\n\
             relations = {{ bug = {{ to = 'bugs', on_delete = 'restrict' }} }}\n"
        )
    };
    let place = Place::new(dir.path(), "node", "");
    let declare = |search: &str| std::fs::write(place.0.join("blazedb.toml"), declared(search)).unwrap();
    declare("'title'");
    let (_node, _) = place.up();
    let bug = place.ok(&["insert", "bugs", r#"{"title":"crash","body":"late at night"}"#]);
    place.ok(&["insert", "comments", &format!(r#"{{"bug":"{bug}"}}"#)]);
    place.fails(&["delete", "bugs", &bug], 1);
    declare("'title', 'body'");
    place.ok(&["apply"]);
    assert!(place.ok(&["search", "bugs", "night"]).contains(&bug));
    place.fails(&["delete", "bugs", &bug], 1);
    assert_eq!(place.ok(&["query", "bugs", "--count"]), "1");
}
