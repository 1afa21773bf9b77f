//! Feeds read through views: what enters, what leaves, and what nobody is told.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod common;

use std::sync::Arc;

use blazedb_core::feed::{FeedBatch, Incoming, PeerNames, Seq};
use blazedb_core::view::{Held, Lens, RemovalReason, Side, View, ViewRequest};
use blazedb_core::{Timestamp, Value};
use blazedb_store::{Durability, Password, Removal, Removals, Shown, Source, Store, StoreOptions};
use common::{TestClock, copy_dir, delete, export, id, insert, set, update};

const LINK: &str = "served";

fn view(filter: &str, excluded: &[&str]) -> Arc<View> {
    let excluded = excluded.iter().map(|name| (*name).to_owned()).collect();
    let request = ViewRequest { filter: Some(filter.to_owned()), excluded };
    Arc::new(request.view(None, Timestamp(0)).unwrap())
}

fn open(dir: &std::path::Path, name: &str) -> Store {
    Store::open(dir.join(name), &Password::Plaintext, TestClock::new().options()).unwrap()
}

/// A reader of a hub's feed: its store, its place and its view.
struct Reader {
    store: Store,
    place: Seq,
    lens: Lens,
    removals: Removals,
}

impl Reader {
    fn new(hub: &Store, store: Store, view: &Arc<View>) -> Self {
        let shown = hub.show(LINK, store.replica(), view, false, false).unwrap();
        assert_eq!(shown, Shown::default());
        let lens = Lens { view: Arc::clone(view), ..Lens::all(Side::Serve) };
        Self { store, place: 0, lens, removals: Removals::default() }
    }

    /// Takes what the hub has behind its place.
    fn pull(&mut self, hub: &Store) -> FeedBatch {
        let batch = hub.feed(self.place, usize::MAX, &self.lens).unwrap();
        self.take(hub, &batch);
        self.place = batch.upto;
        hub.reader_passed(LINK, self.store.replica(), self.place).unwrap();
        batch
    }

    fn take(&self, hub: &Store, batch: &FeedBatch) {
        self.take_telling(hub, batch, 0, None);
    }

    /// The same for one that has told the hub its feed up to `peer_has`, of what is in the view `told`.
    fn take_telling(&self, hub: &Store, batch: &FeedBatch, peer_has: Seq, told: Option<&Arc<View>>) {
        let (no, _) = hub.peer(LINK, self.store.replica()).unwrap();
        let (peer_no, _) = self.store.peer("hub", hub.replica()).unwrap();
        let mut names = PeerNames::default();
        assert!(names.learn(batch.names.clone()));
        let names = Arc::new(names);
        let incoming = Incoming { data: batch.data_for(no), names, checkpoint: None, peer_has };
        let source = Source::new("hub".into(), hub.replica(), peer_no).taking_away(self.removals);
        let source = told.map_or_else(|| source.clone(), |view| source.clone().told(Arc::clone(view)));
        self.store.apply(&[self.store.check(source, incoming).unwrap()]).unwrap();
    }

    /// The view is replaced: the hub reads its feed once from the start.
    fn replace(&mut self, hub: &Store, view: &Arc<View>) {
        let Shown { held, .. } = hub.show(LINK, self.store.replica(), view, true, false).unwrap();
        let held = Held::Under { views: held, upto: self.place };
        let lens = Lens { view: Arc::clone(view), held, ..Lens::all(Side::Serve) };
        let batch = hub.feed(0, usize::MAX, &lens).unwrap();
        self.take(hub, &batch);
        self.place = batch.upto;
        hub.shown_only(LINK, self.store.replica(), view).unwrap();
        self.lens = Lens { held: Held::Same, ..lens };
    }

    fn holds(&self) -> Vec<u64> {
        (1..10).filter(|no| self.store.get(id(*no)).unwrap().is_some()).collect()
    }
}

fn hub(dir: &std::path::Path) -> Store {
    let hub = open(dir, "hub");
    for (no, team) in [(1, "ios"), (2, "ios"), (3, "web")] {
        insert(&hub, no, [("team", Value::from(team)), ("big", Value::from("x"))]);
    }
    hub
}

#[test]
fn what_leaves_is_removed_and_what_was_never_held_is_not_mentioned() {
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path());
    let mut reader = Reader::new(&hub, open(dir.path(), "a"), &view("team == \"ios\"", &[]));
    reader.pull(&hub);
    assert_eq!(reader.holds(), [1, 2]);
    update(&hub, 1, &set("team", "web"));
    update(&hub, 3, &set("note", "unseen"));
    insert(&hub, 4, [("team", Value::from("web"))]);
    update(&hub, 4, &set("team", "ios"));
    update(&hub, 4, &set("team", "web"));
    let batch = reader.pull(&hub);
    assert_eq!(batch.entries.len(), 1, "3 was never held, and 4 came and went between two contacts");
    assert_eq!(reader.holds(), [2]);
    delete(&hub, 1);
    delete(&hub, 3);
    assert!(reader.pull(&hub).entries.is_empty(), "deletions of what is not held");
    delete(&hub, 2);
    assert_eq!(reader.pull(&hub).entries.len(), 1);
    assert_eq!(reader.holds(), [0; 0]);
}

#[test]
fn a_record_that_comes_back_comes_whole_and_a_change_comes_as_a_delta() {
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path());
    let mut reader = Reader::new(&hub, open(dir.path(), "a"), &view("team == \"ios\"", &[]));
    reader.pull(&hub);
    update(&hub, 1, &set("team", "web"));
    reader.pull(&hub);
    update(&hub, 1, &set("team", "ios"));
    reader.pull(&hub);
    assert_eq!(reader.store.get(id(1)).unwrap(), hub.get(id(1)).unwrap());
    update(&hub, 2, &set("note", "n"));
    let delta = reader.pull(&hub);
    assert!(delta.data.len() < 60, "{} bytes", delta.data.len());
    assert_eq!(reader.store.get(id(2)).unwrap(), hub.get(id(2)).unwrap());
}

#[test]
fn hidden_fields_stay_where_they_are_and_make_no_entries() {
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path());
    let mut reader = Reader::new(&hub, open(dir.path(), "a"), &view("true", &["big"]));
    reader.pull(&hub);
    assert!(export(&reader.store).iter().all(|record| record.get("big").is_none()));
    update(&hub, 1, &set("big", "y"));
    assert!(reader.pull(&hub).entries.is_empty());
    reader.replace(&hub, &view("true", &[]));
    assert_eq!(export(&reader.store), export(&hub));
}

#[test]
fn a_replaced_view_sends_the_difference() {
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path());
    let mut reader = Reader::new(&hub, open(dir.path(), "a"), &view("team == \"ios\"", &[]));
    reader.pull(&hub);
    // While it is away, one leaves the old view and one the new one.
    update(&hub, 1, &set("team", "other"));
    reader.replace(&hub, &view("team == \"web\" || team == \"other\"", &[]));
    assert_eq!(reader.holds(), [1, 3]);
    reader.replace(&hub, &Arc::new(View::all()));
    assert_eq!(reader.holds(), [1, 2, 3]);
    reader.replace(&hub, &view("team == \"ios\"", &[]));
    assert_eq!(reader.holds(), [2]);
}

#[test]
fn a_kept_record_stays_and_a_record_with_unsent_edits_waits() {
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path());
    let ios = view("team == \"ios\"", &[]);
    let mut keeper = Reader::new(&hub, open(dir.path(), "a"), &ios);
    keeper.removals.left_filter = Removal::Keep;
    let mut editor = Reader::new(&hub, open(dir.path(), "b"), &ios);
    keeper.pull(&hub);
    editor.pull(&hub);
    update(&editor.store, 1, &set("note", "mine"));
    let edit = editor.store.head();
    update(&hub, 1, &set("team", "web"));
    update(&hub, 2, &set("team", "web"));
    keeper.pull(&hub);
    editor.pull(&hub);
    assert_eq!((keeper.holds(), editor.holds()), (vec![1, 2], vec![1]));
    let leaving = editor.store.leaving().unwrap();
    assert_eq!(
        leaving.iter().map(|l| (l.id, l.reason)).collect::<Vec<_>>(),
        [(id(1), RemovalReason::LeftFilter)]
    );
    let (no, _) = editor.store.peer("hub", hub.replica()).unwrap();
    let source = Source::new("hub".into(), hub.replica(), no);
    editor.store.finish_leaving(&source, edit - 1, Removals::default()).unwrap();
    assert_eq!(editor.holds(), [1], "its edit has not arrived yet");
    editor.store.finish_leaving(&source, edit, Removals::default()).unwrap();
    assert_eq!((editor.holds(), editor.store.leaving().unwrap().len()), (vec![], 0));
}

/// What does not travel is only here, also if the file has become another replica since it was written.
#[test]
fn what_was_never_told_keeps_a_record_although_the_file_has_another_id_by_now() {
    for durability in [Durability::Normal, Durability::Full] {
        let dir = tempfile::tempdir().unwrap();
        let (hub, team) = (hub(dir.path()), r#"team == "ios""#);
        let options = || StoreOptions { durability, ..TestClock::new().options() };
        let own = dir.path().join("own");
        std::fs::create_dir(&own).unwrap();
        let store = Store::open(own.join("a"), &Password::Plaintext, options()).unwrap();
        let mut reader = Reader::new(&hub, store, &view(team, &[]));
        reader.pull(&hub);
        update(&reader.store, 1, &set("draft", "only here"));
        // What a machine finds that lost its power.
        let found = dir.path().join("found");
        std::fs::create_dir(&found).unwrap();
        copy_dir(&own, &found);
        let after = Store::open(found.join("a"), &Password::Plaintext, options()).unwrap();
        assert_eq!(after.replica() != reader.store.replica(), durability == Durability::Normal);
        let reader = Reader { store: after, ..reader };
        update(&hub, 1, &set("team", "web"));
        let batch = hub.feed(reader.place, usize::MAX, &reader.lens).unwrap();
        reader.take_telling(&hub, &batch, reader.store.head(), Some(&view(team, &["draft"])));
        assert_eq!(
            reader.store.get_field(id(1), "draft").unwrap(),
            Some("only here".into()),
            "{durability:?}"
        );
        assert_eq!(reader.holds(), [1, 2]);
    }
}

#[test]
fn a_record_that_left_while_a_comparison_sent_it_comes_whole_when_it_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path());
    let ios = view("team == \"ios\"", &[]);
    let mut reader = Reader::new(&hub, open(dir.path(), "a"), &ios);
    // Somebody has read up to here, so that a difference is what whoever stands here gets.
    Reader::new(&hub, open(dir.path(), "b"), &ios).pull(&hub);
    // What both hold was listed here; before the reader is sent what it lacks, one of it leaves.
    let listed = hub.head();
    update(&hub, 1, &set("team", "web"));
    let batch = hub.wanted_in_full(&[id(1), id(2)], &reader.lens).unwrap();
    assert_eq!(batch.entries.len(), 1);
    reader.take(&hub, &batch);
    reader.place = listed;
    update(&hub, 1, &set("team", "ios"));
    reader.pull(&hub);
    assert_eq!(reader.store.get(id(1)).unwrap(), hub.get(id(1)).unwrap());
    // It still is taken away when it leaves again.
    update(&hub, 1, &set("team", "web"));
    reader.pull(&hub);
    assert_eq!(reader.holds(), [2]);
}

#[test]
fn a_record_that_waits_to_leave_is_never_the_same_in_a_comparison() {
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path());
    let ios = view("team == \"ios\"", &[]);
    let mut editor = Reader::new(&hub, open(dir.path(), "a"), &ios);
    editor.pull(&hub);
    // Both write the same: only that it waits tells them apart, and it stays if the hub shows it again.
    update(&editor.store, 1, &set("team", "web"));
    update(&hub, 1, &set("team", "web"));
    editor.pull(&hub);
    assert_eq!(editor.store.leaving().unwrap().len(), 1);
    let set = |store: &Store, side: Side| {
        let mut set = store.reconcile_set(&Lens::all(side)).unwrap();
        set.content.sort_by_key(|item| item.id);
        set.content.into_iter().map(|item| (item.id, item.hash)).collect::<Vec<_>>()
    };
    let (there, here) = (set(&hub, Side::Serve), set(&editor.store, Side::Deliver));
    assert_eq!((there[0].0, there[1]), (here[0].0, here[1]), "{there:?} {here:?}");
    assert_ne!(there[0].1, here[0].1);
    assert_eq!(set(&editor.store, Side::Serve), there[..2], "as it serves others, it is what it is");
}

#[test]
fn what_waits_to_leave_is_told_of_once_however_often_it_is_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path());
    let (all, ios) = (view("true", &[]), view("team == \"ios\"", &[]));
    let mut reader = Reader::new(&hub, open(dir.path(), "a"), &all);
    reader.pull(&hub);
    // Its last edit takes the record out of the view in which it tells what it writes.
    update(&reader.store, 1, &set("team", "web"));
    let edit = reader.store.head();
    update(&hub, 1, &set("team", "web"));
    let Shown { held, .. } = hub.show(LINK, reader.store.replica(), &ios, true, false).unwrap();
    let lens = Lens {
        view: Arc::clone(&ios),
        held: Held::Under { views: held, upto: reader.place },
        ..Lens::all(Side::Serve)
    };
    let removal = hub.feed(0, usize::MAX, &lens).unwrap();
    reader.take_telling(&hub, &removal, edit, Some(&ios));
    let told = reader.store.head();
    assert!(told > edit, "it is in the feed once more");
    assert_eq!((reader.holds(), reader.store.leaving().unwrap().len()), (vec![1, 2], 1));
    reader.take_telling(&hub, &removal, edit, Some(&ios));
    assert_eq!((reader.store.head(), reader.store.leaving().unwrap().len()), (told, 1));
    // Taken away again once the hub has it: now it goes.
    reader.take_telling(&hub, &removal, told, Some(&ios));
    assert_eq!((reader.holds(), reader.store.leaving().unwrap().len()), (vec![2], 0));
}

#[test]
fn former_states_go_when_every_reader_has_passed_them() {
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path());
    let ios = view("team == \"ios\"", &[]);
    let mut near = Reader::new(&hub, open(dir.path(), "a"), &ios);
    let mut far = Reader::new(&hub, open(dir.path(), "b"), &ios);
    near.pull(&hub);
    far.pull(&hub);
    for round in 0..20 {
        update(&hub, 1, &set("team", if round % 2 == 0 { "web" } else { "ios" }));
        near.pull(&hub);
    }
    update(&hub, 1, &set("team", "web"));
    far.pull(&hub);
    near.pull(&hub);
    assert_eq!((near.holds(), far.holds()), (vec![2], vec![2]));
}
