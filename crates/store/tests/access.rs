//! What a hub with access rules lets through, and what becomes of the rest on the device that wrote it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that can't go on fails where it stands"
)]

mod common;

use std::sync::Arc;

use blazedb_core::access::{AccessRules, Operation, Rights};
use blazedb_core::feed::{Incoming, PeerNames};
use blazedb_core::filter::User;
use blazedb_core::topology::{AccessSpec, FilterText};
use blazedb_core::view::{Held, Lens, RemovalReason, Side, View, ViewRequest};
use blazedb_core::{FieldEdit, Hlc, NodeId, RecordId, ReplicaId, Stamp, Timestamp, Value};
use blazedb_store::{
    Applied, CheckedBatch, Claim, Gate, Rejected, Removals, Source, Store, StoreError, TracedEdit, TracedOp,
};
use common::*;

/// Team rules; admins delete, relays relay.
fn rights(teams: &[&str], roles: &[&str]) -> Rights {
    let rule = |text: &str| Some(FilterText::new(text));
    let spec = AccessSpec {
        public: false,
        connect: rule("true"),
        read: rule("record.teamId in user.teams"),
        insert: rule("record.teamId in user.teams"),
        update: rule("record.teamId in user.teams && old.teamId == record.teamId"),
        delete: rule(r#""admin" in user.roles"#),
        relay: rule(r#""relay" in user.roles"#),
        keys: None,
    };
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let user = User { teams: owned(teams), roles: owned(roles), ..User::default() };
    AccessRules::compile(&spec).unwrap().for_user(Some(&user))
}

/// A device as the hub knows it.
struct Device {
    store: Temp,
    gate: Arc<Gate>,
    /// What it tells the hub.
    told: Arc<View>,
}

const LINK: &str = "link";

impl Device {
    fn new(hub: &Store, node: u8, teams: &[&str], roles: &[&str]) -> Self {
        let gate = Gate { rights: rights(teams, roles), node: NodeId::from_bytes([node; 16]) };
        let store = Temp::new();
        assert_eq!(hub.claim_replica(store.replica(), gate.node).unwrap(), Claim::Granted);
        Self { store, gate: Arc::new(gate), told: Arc::new(View::all()) }
    }

    fn ios(hub: &Store) -> Self {
        Self::new(hub, 1, &["ios"], &[])
    }

    /// Pushes what is new to the hub.
    fn push(&self, hub: &Store) -> Applied {
        let batch = self.batch(hub);
        hub.apply(&[batch]).unwrap()
    }

    fn batch(&self, hub: &Store) -> CheckedBatch {
        let (peer_no, after) = hub.peer(LINK, self.store.replica()).unwrap();
        let (hub_no, has) = self.store.peer(LINK, hub.replica()).unwrap();
        let batch = {
            let lens = Lens { view: Arc::clone(&self.told), ..Lens::all(Side::Deliver) };
            self.store.feed(after.unwrap_or(0), usize::MAX, &lens).unwrap()
        };
        let mut names = PeerNames::default();
        let incoming = Incoming {
            data: batch.data_for(hub_no),
            checkpoint: Some(batch.upto),
            peer_has: has.unwrap_or(0),
            names: {
                assert!(names.learn(batch.names));
                Arc::new(names)
            },
        };
        hub.check(self.source(hub, peer_no), incoming).unwrap()
    }

    fn source(&self, _hub: &Store, peer_no: u32) -> Source {
        Source::new(LINK.into(), self.store.replica(), peer_no).behind(Some(Arc::clone(&self.gate)))
    }

    fn peer_no(&self, hub: &Store) -> u32 {
        hub.peer(LINK, self.store.replica()).unwrap().0
    }

    /// Takes what the hub refused. Answers how many writes that were.
    fn take(&self, hub: &Store) -> usize {
        let (count, last) = self.hear(hub);
        let peer_no = self.peer_no(hub);
        let forget = CheckedBatch::forget_refusals(self.source(hub, peer_no), last);
        hub.apply(&[forget]).unwrap();
        assert!(!hub.has_refusals(peer_no).unwrap());
        count
    }

    /// Takes what the hub refused, and the hub does not hear of that. Answers how many writes that were, and the number of
    /// the last one.
    fn hear(&self, hub: &Store) -> (usize, u64) {
        let peer_no = self.peer_no(hub);
        let (refusals, more) = hub.refusals(&self.source(hub, peer_no), 0, &self.view()).unwrap();
        assert!(!more && refusals.writes.is_empty() != hub.has_refusals(peer_no).unwrap());
        let (count, last) = (refusals.writes.len(), refusals.last());
        let (hub_no, _) = self.store.peer(LINK, hub.replica()).unwrap();
        let source = Source::new(LINK.into(), hub.replica(), hub_no).told(Arc::clone(&self.told));
        let taken = self.store.check_refusals(source, refusals).unwrap();
        self.store.apply(&[taken]).unwrap();
        (count, last)
    }

    /// What the `read` rule shows it.
    fn view(&self) -> Arc<View> {
        let request = ViewRequest::default();
        Arc::new(request.view(Some(self.gate.rights.read()), Timestamp(0)).unwrap())
    }

    fn pull(&self, hub: &Store) {
        pump_from(hub, &self.store);
    }
}

/// Carries the hub's feed to a device, as a link of it does.
fn pump_from(hub: &Store, to: &Store) {
    pump_over(hub, to, |source| source);
}

/// The same over a link whose other side may take records away.
fn pump_removals(hub: &Store, to: &Store) {
    pump_over(hub, to, |source| source.taking_away(Removals::default()));
}

fn pump_over(hub: &Store, to: &Store, link: impl Fn(Source) -> Source) {
    let (no, has) = hub.peer(LINK, to.replica()).unwrap();
    let (hub_no, after) = to.peer(LINK, hub.replica()).unwrap();
    let batch = hub.feed(after.unwrap_or(0), usize::MAX, &Lens::all(Side::Serve)).unwrap();
    let mut names = PeerNames::default();
    let data = batch.data_for(no);
    assert!(names.learn(batch.names));
    let checkpoint = Some(batch.upto);
    let incoming = Incoming { data, checkpoint, peer_has: has.unwrap_or(0), names: Arc::new(names) };
    let source = link(Source::new(LINK.into(), hub.replica(), hub_no));
    let checked = to.check(source, incoming).unwrap();
    to.apply(&[checked]).unwrap();
}

fn bug(team: &str) -> [(&'static str, Value); 2] {
    [("teamId", team.into()), ("title", "crash".into())]
}

/// All that the hub has: records, and the end of its feed.
fn held(hub: &Store) -> (Vec<blazedb_core::Record>, u64) {
    (export(hub), hub.head())
}

fn only(rejected: Vec<Rejected>) -> Rejected {
    assert_eq!(rejected.len(), 1, "{rejected:?}");
    rejected.into_iter().next().unwrap()
}

#[test]
fn of_a_batch_only_what_is_allowed_is_applied_and_the_checkpoint_moves() {
    let hub = Temp::new();
    let device = Device::ios(&hub);
    for (no, team) in [(1, "ios"), (2, "web"), (3, "ios")] {
        insert(&device.store, no, bug(team));
    }
    insert(&device.store, 4, [("secretField", 1.into())]);
    let applied = device.push(&hub);
    assert_eq!((applied.changed, applied.refused), (2, 2));
    let there: Vec<RecordId> = export(&hub).iter().map(|record| record.id).collect();
    assert_eq!(there, [id(1), id(3)]);
    assert_eq!(hub.peer(LINK, device.store.replica()).unwrap().1, Some(device.store.head()));
    let raw = blazedb_sqlite::rusqlite::Connection::open(hub.path()).unwrap();
    let known = raw.query_row("SELECT count(*) FROM fields WHERE name='secretField'", [], |row| row.get(0));
    assert_eq!(known, Ok(0), "not even a name of what is refused is kept");
}

#[test]
fn a_refused_insert_disappears_and_is_kept_with_its_content() {
    let hub = Temp::new();
    let device = Device::ios(&hub);
    insert(&device.store, 1, bug("web"));
    device.push(&hub);
    let cursor = device.store.head();
    assert_eq!(device.take(&hub), 1);
    assert!(export(&device.store).is_empty());
    let changes = device.store.changes(cursor, 10, None).unwrap();
    assert_eq!((changes.len(), changes[0].id, changes[0].record.is_none()), (1, id(1), true));
    let rejected = only(device.store.rejected().unwrap());
    assert_eq!((rejected.operation, rejected.record.id), (Operation::Insert, id(1)));
    assert_eq!(rejected.record.fields, fields(bug("web")));
    assert!(rejected.reason.contains("`insert`"), "{}", rejected.reason);
    // What is left of it tells nobody anything.
    let before = held(&hub);
    device.push(&hub);
    assert_eq!(held(&hub), before);
    assert!(device.store.verify().unwrap().problems.is_empty());
    assert!(device.store.reconcile_set(&Lens::all(Side::Deliver)).unwrap().history.is_empty());
    insert(&device.store, 1, bug("ios"));
    assert_eq!(device.push(&hub).changed, 1);
    assert_eq!(export(&hub), export(&device.store));
}

#[test]
fn a_record_can_be_moved_neither_into_a_team_nor_out_of_it() {
    let hub = Temp::new();
    let device = Device::ios(&hub);
    insert(&hub, 1, bug("web"));
    insert(&hub, 2, bug("ios"));
    device.pull(&hub);
    update(&device.store, 1, &set("teamId", "ios"));
    update(&device.store, 2, &set("teamId", "web"));
    let before = held(&hub);
    assert_eq!(device.push(&hub).refused, 2);
    assert_eq!(held(&hub), before);
    device.take(&hub);
    // The one that the user may see is as the hub has it; of the other one the user may know nothing.
    assert_eq!(export(&device.store), export(&hub)[1..]);
    let operations: Vec<_> = device.store.rejected().unwrap().into_iter().map(|r| r.operation).collect();
    assert_eq!(operations, [Operation::Update, Operation::Update]);
    assert!(device.push(&hub).refused == 0 && held(&hub) == before);
}

#[test]
fn deleting_needs_its_right_and_a_refused_deletion_comes_back() {
    let hub = Temp::new();
    let device = Device::ios(&hub);
    insert(&hub, 1, bug("ios"));
    device.pull(&hub);
    delete(&device.store, 1);
    let before = held(&hub);
    assert_eq!(device.push(&hub).refused, 1);
    assert_eq!(held(&hub), before);
    device.take(&hub);
    assert_eq!(export(&device.store), export(&hub));
    assert_eq!(only(device.store.rejected().unwrap()).operation, Operation::Delete);

    let admin = Device::new(&hub, 2, &["ios"], &["admin"]);
    admin.pull(&hub);
    delete(&admin.store, 1);
    assert_eq!(admin.push(&hub), Applied { changed: 1, ..Applied::default() });
    assert!(export(&hub).is_empty());
}

#[test]
fn deleting_and_inserting_again_at_once_needs_both_rights() {
    let hub = Temp::new();
    let device = Device::ios(&hub);
    insert(&hub, 1, bug("ios"));
    device.pull(&hub);
    delete(&device.store, 1);
    insert(&device.store, 1, [("teamId", "ios".into()), ("title", "mine now".into())]);
    let before = held(&hub);
    assert_eq!(device.push(&hub).refused, 1);
    assert_eq!(held(&hub), before);
}

#[test]
fn stamps_of_other_replicas_are_refused_unless_they_are_known_or_the_node_may_relay() {
    let hub = Temp::new();
    let device = Device::ios(&hub);
    let other = ReplicaId::from_bytes([9; 16]);
    let forge = |store: &Store, record: u64, op: TracedOp| {
        let stamp = Stamp::new(Hlc::new(NOW + 50 + record, 0), other);
        store.transaction(|tx| tx.apply_traced(&TracedEdit { id: id(record), stamp, op })).unwrap();
    };
    insert(&hub, 1, bug("ios"));
    device.pull(&hub);
    forge(&device.store, 1, TracedOp::Update(fields([("title", "forged".into())])));
    forge(&device.store, 2, TracedOp::Insert(fields(bug("ios"))));
    let before = held(&hub);
    assert_eq!(device.push(&hub).refused, 2);
    assert_eq!(held(&hub), before);
    device.take(&hub);
    let rejected = device.store.rejected().unwrap();
    assert!(rejected.iter().all(|write| write.operation == Operation::Relay));
    assert!(rejected[0].reason.contains(&other.to_string()), "{}", rejected[0].reason);
    assert_eq!(device.store.count(None).unwrap(), 2, "writes of others are not taken from this node");
    assert_eq!(device.push(&hub), Applied::default(), "and not pushed over and over");

    let relay = Device::new(&hub, 2, &["ios"], &["relay"]);
    relay.pull(&hub);
    forge(&relay.store, 1, TracedOp::Update(fields([("title", "forged".into())])));
    forge(&relay.store, 2, TracedOp::Insert(fields(bug("ios"))));
    assert_eq!(relay.push(&hub).changed, 2);
    // Known now: the device may write on top of it.
    update(&device.store, 1, &set("title", "mine"));
    update(&device.store, 2, &set("title", "mine"));
    assert_eq!(device.push(&hub), Applied { changed: 2, ..Applied::default() });
}

#[test]
fn a_forged_tombstone_and_forged_counts_are_refused() {
    let hub = Temp::new();
    let device = Device::new(&hub, 1, &["ios"], &["admin"]);
    let victim = Device::new(&hub, 2, &["ios"], &[]);
    let mut record = fields(bug("ios"));
    record.insert("votes".to_owned(), Value::Counter(0));
    victim.store.transaction(|tx| tx.insert(id(1), &record)).unwrap();
    insert(&victim.store, 2, bug("ios"));
    victim.push(&hub);
    device.pull(&hub);
    let stamp = Stamp::new(Hlc::new(NOW + 90, 0), victim.store.replica());
    let op = TracedOp::Delete;
    device.store.transaction(|tx| tx.apply_traced(&TracedEdit { id: id(2), stamp, op })).unwrap();
    // The victim counted, but not at the hub; the device brings it along with its own count.
    update(&victim.store, 1, &edits([("votes", FieldEdit::Increment(5))]));
    pump(&victim.store, &device.store);
    update(&device.store, 1, &edits([("votes", FieldEdit::Increment(1))]));
    let before = held(&hub);
    assert_eq!(device.push(&hub).refused, 2);
    assert_eq!(held(&hub), before);
    victim.push(&hub);
    assert_eq!(hub.get_field(id(1), "votes").unwrap(), Some(Value::Counter(5)));
}

#[test]
fn a_replica_belongs_to_the_node_that_introduced_it() {
    let hub = Temp::new();
    let device = Device::ios(&hub);
    let (mine, thief) = (device.gate.node, NodeId::from_bytes([7; 16]));
    assert_eq!(hub.claim_replica(device.store.replica(), thief).unwrap(), Claim::OfAnother);
    assert_eq!(hub.claim_replica(device.store.replica(), mine).unwrap(), Claim::Granted);
    // A second replica of the same node is its own, too: after a restore, what it had written before still counts.
    let second = ReplicaId::from_bytes([8; 16]);
    assert_eq!(hub.claim_replica(second, mine).unwrap(), Claim::Granted);
    let stamp = Stamp::new(Hlc::new(NOW, 0), second);
    let op = TracedOp::Insert(fields(bug("ios")));
    device.store.transaction(|tx| tx.apply_traced(&TracedEdit { id: id(1), stamp, op })).unwrap();
    assert_eq!(device.push(&hub).changed, 1);
    let many = (0..blazedb_core::limits::MAX_OWNED_REPLICAS).map(|no| {
        let mut bytes = [0xaa; 16];
        bytes[..8].copy_from_slice(&no.to_be_bytes());
        hub.claim_replica(ReplicaId::from_bytes(bytes), mine).unwrap()
    });
    assert_eq!(many.filter(|claim| *claim == Claim::TooMany).count(), 2);
}

#[test]
fn newer_edits_stay_on_top_and_are_pushed_again() {
    let hub = Temp::new();
    let device = Device::ios(&hub);
    insert(&hub, 1, bug("ios"));
    device.pull(&hub);
    update(&device.store, 1, &set("teamId", "web"));
    assert_eq!(device.push(&hub).refused, 1);
    // Made before the device knows, and pushed: the hub waits until it does.
    update(&device.store, 1, &set("title", "newer"));
    let before = held(&hub);
    assert_eq!(device.push(&hub), Applied::default());
    assert_eq!(held(&hub), before);
    device.take(&hub);
    let here = device.store.get(id(1)).unwrap().unwrap();
    assert_eq!((here.get("teamId"), here.get("title")), (Some(&"ios".into()), Some(&"newer".into())));
    assert_eq!(device.push(&hub).changed, 1);
    assert_eq!(export(&hub), export(&device.store));
    let rejected = only(device.store.rejected().unwrap());
    assert_eq!(rejected.record.fields, fields([("teamId", "web".into())]));
}

#[test]
fn a_refusal_told_again_under_a_wider_view_loses_nothing_of_what_it_takes() {
    let hub = Temp::new();
    let mut device = Device::ios(&hub);
    insert(&hub, 1, bug("ios"));
    device.pull(&hub);
    let narrow = ViewRequest { excluded: vec!["notes".to_owned()], ..ViewRequest::default() };
    device.told = Arc::new(narrow.view(None, Timestamp(0)).unwrap());
    let written =
        [("teamId", "web"), ("notes", "mine")].map(|(name, value)| (name, FieldEdit::Set(value.into())));
    update(&device.store, 1, &edits(written));
    assert_eq!(device.push(&hub).refused, 1);
    device.hear(&hub);
    let kept = || only(device.store.rejected().unwrap()).record.fields;
    assert_eq!(kept(), fields([("teamId", "web".into())]));
    assert_eq!(device.store.get(id(1)).unwrap().unwrap().get("notes"), Some(&"mine".into()));
    // The connection broke, and the link's policy is another one when it is told again.
    device.told = Arc::new(View::all());
    device.take(&hub);
    assert_eq!(device.store.get(id(1)).unwrap().unwrap().get("notes"), None);
    let kept = only(device.store.rejected().unwrap()).record.fields;
    assert_eq!(kept, fields([("teamId", "web".into()), ("notes", "mine".into())]));
    device.store.retry_rejected(id(1)).unwrap();
    assert_eq!(device.store.get(id(1)).unwrap().unwrap().get("notes"), Some(&"mine".into()));
}

#[test]
fn a_record_that_a_refusal_takes_away_is_shown_again_once_it_may_be() {
    for pulls in [false, true] {
        let hub = Temp::new();
        let mut device = Device::ios(&hub);
        insert(&hub, 1, bug("ios"));
        let (ios, replica) = (device.view(), device.store.replica());
        hub.show(LINK, replica, &ios, false, false).unwrap();
        device.pull(&hub);
        hub.shown_only(LINK, replica, &ios).unwrap();
        // The user leaves the team and comes back, and nothing was pulled meanwhile.
        let stranger = Arc::new(Gate { rights: rights(&[], &[]), node: device.gate.node });
        let member = std::mem::replace(&mut device.gate, stranger);
        update(&device.store, 1, &set("title", "mine"));
        assert_eq!(device.push(&hub).refused, 1);
        let source = device.source(&hub, device.peer_no(&hub)).resuming(true);
        let source = source.reading(pulls.then_some(&*device.view()), hub.head(), true);
        let (refusals, _) = hub.refusals(&source, 0, &device.view()).unwrap();
        assert_eq!(refusals.writes[0].state, None);
        device.take(&hub);
        assert!(export(&device.store).is_empty());
        device.gate = member;
        let held = hub.show(LINK, replica, &ios, true, false).unwrap().held;
        // A session that pulls has noted what it shows already when it opened.
        assert_eq!(held.len(), if pulls { 0 } else { 2 });
        if !pulls {
            let held = Held::Under { views: held, upto: hub.head() };
            let again = hub.feed(0, usize::MAX, &Lens { view: ios, held, ..Lens::all(Side::Serve) }).unwrap();
            assert_eq!(again.entries.len(), 1, "though nothing has changed");
        }
    }
}

#[test]
fn an_update_behind_a_refused_insert_makes_no_half_record() {
    let hub = Temp::new();
    let device = Device::ios(&hub);
    insert(&device.store, 1, bug("web"));
    device.push(&hub);
    // The feed goes on with the fields that changed; they would be allowed by themselves.
    update(&device.store, 1, &set("teamId", "ios"));
    assert_eq!(device.push(&hub), Applied::default());
    assert!(export(&hub).is_empty());
    device.take(&hub);
    assert!(export(&device.store).is_empty());
    let all = only(device.store.rejected().unwrap()).record.fields;
    assert_eq!(all, fields(bug("ios")), "everything that was written to it");
    device.store.retry_rejected(id(1)).unwrap();
    assert_eq!(device.push(&hub).changed, 1);
    assert_eq!(export(&hub), export(&device.store));
}

#[test]
fn retrying_writes_again_and_dropping_forgets() {
    let hub = Temp::new();
    let device = Device::ios(&hub);
    insert(&hub, 1, bug("ios"));
    insert(&hub, 2, bug("ios"));
    device.pull(&hub);
    update(&device.store, 1, &edits([("teamId", FieldEdit::Set("web".into())), ("title", FieldEdit::Unset)]));
    delete(&device.store, 2);
    insert(&device.store, 3, bug("web"));
    device.push(&hub);
    assert_eq!(device.take(&hub), 3);
    assert_eq!(device.store.rejected_count().unwrap(), 3);
    assert_eq!(device.store.drop_rejected(id(3)).unwrap(), 1);
    assert!(matches!(device.store.drop_rejected(id(3)), Err(StoreError::NoRejected(_))));
    for record in [1, 2] {
        device.store.retry_rejected(id(record)).unwrap();
    }
    assert!(device.store.rejected().unwrap().is_empty());
    assert_eq!(device.store.get(id(1)).unwrap().unwrap().fields, fields([("teamId", "web".into())]));
    assert_eq!(device.store.get(id(2)).unwrap(), None);
    // Refused again, as fresh writes.
    assert_eq!(device.push(&hub).refused, 2);
    assert_eq!(device.take(&hub), 2);
    assert_eq!(export(&device.store), export(&hub));
    assert_eq!(device.store.rejected_count().unwrap(), 2);
    // An update of what is gone can't be made again.
    delete(&device.store, 1);
    assert!(matches!(device.store.retry_rejected(id(1)), Err(StoreError::NoRecord(_))));
    assert_eq!(device.store.rejected_count().unwrap(), 2);
}

#[test]
fn a_refusal_that_is_told_twice_is_kept_once() {
    let hub = Temp::new();
    let device = Device::ios(&hub);
    insert(&device.store, 1, bug("web"));
    device.push(&hub);
    let (refusals, _) = hub.refusals(&device.source(&hub, device.peer_no(&hub)), 0, &device.view()).unwrap();
    for _ in 0..2 {
        let source = Source::new(LINK.into(), hub.replica(), 1);
        let taken = device.store.check_refusals(source, refusals.clone()).unwrap();
        device.store.apply(&[taken]).unwrap();
    }
    only(device.store.rejected().unwrap());
}

#[test]
fn what_nobody_would_see_is_passed_over_without_a_word() {
    let hub = Temp::new();
    let device = Device::ios(&hub);
    insert(&hub, 1, bug("ios"));
    device.pull(&hub);
    delete(&hub, 1);
    // An edit of what is deleted meanwhile, and a deletion of what the hub never knew.
    update(&device.store, 1, &set("title", "late"));
    insert(&device.store, 2, bug("ios"));
    delete(&device.store, 2);
    let before = held(&hub);
    assert_eq!(device.push(&hub), Applied::default());
    assert_eq!(held(&hub), before);
    device.pull(&hub);
    assert!(export(&device.store).is_empty());
}

#[test]
fn a_write_that_loses_is_logged_only_if_its_writer_might_have_made_it() {
    let hub = Temp::new();
    let (allowed, stranger) = (Device::ios(&hub), Device::new(&hub, 2, &["web"], &[]));
    insert(&hub, 1, bug("ios"));
    for device in [&allowed, &stranger] {
        device.pull(&hub);
        update(&device.store, 1, &set("title", "loses"));
    }
    hub.clock.advance(1_000);
    update(&hub, 1, &set("title", "wins"));
    assert_eq!(stranger.push(&hub), Applied::default());
    assert_eq!(allowed.push(&hub).conflicts, 1);
    assert_eq!(hub.conflicts().unwrap()[0].stamp.writer, allowed.store.replica());
}

#[test]
fn a_peer_that_takes_nothing_is_stopped() {
    let hub = Temp::new();
    let device = Device::ios(&hub);
    insert(&device.store, 1, bug("web"));
    device.push(&hub);
    let raw = blazedb_sqlite::rusqlite::Connection::open(hub.path()).unwrap();
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<65536)
                INSERT INTO refusals(peer_no,id,operation,stamp,reason) SELECT 1,i,1,zeroblob(24),'' FROM n";
    raw.execute_batch(fill).unwrap();
    insert(&device.store, 2, bug("ios"));
    let batch = device.batch(&hub);
    assert!(matches!(hub.apply(&[batch]), Err(StoreError::TooManyRefused { .. })));
    assert!(export(&hub).is_empty());
}

#[test]
fn a_public_database_asks_nothing() {
    let hub = Temp::new();
    let device = Temp::new();
    insert(&device, 1, bug("web"));
    assert_eq!(pump(&device, &hub), 1);
    assert_eq!(export(&device), export(&hub));
}

#[test]
fn what_is_taken_back_is_a_removal_for_whoever_reads_here() {
    let (hub, below) = (Temp::new(), Temp::new());
    let device = Device::ios(&hub);
    insert(&device.store, 1, bug("web"));
    pump_from(&device.store, &below);
    assert!(below.get(id(1)).unwrap().is_some());
    device.push(&hub);
    device.take(&hub);
    assert_eq!(device.store.why_removed(id(1)).unwrap(), Some(RemovalReason::AccessRevoked));
    pump_removals(&device.store, &below);
    assert_eq!(below.get(id(1)).unwrap(), None);
    assert_eq!(below.why_removed(id(1)).unwrap(), Some(RemovalReason::AccessRevoked));
}

#[test]
fn a_field_that_the_authority_is_never_told_of_is_not_taken_back() {
    let hub = Temp::new();
    let mut device = Device::ios(&hub);
    let request = ViewRequest { filter: None, excluded: vec!["draft".to_owned()] };
    device.told = Arc::new(request.view(None, Timestamp(0)).unwrap());
    insert(&device.store, 1, [("teamId", "ios".into()), ("draft", "mine".into())]);
    device.push(&hub);
    assert!(!hub.get(id(1)).unwrap().unwrap().fields.contains_key("draft"));
    update(&device.store, 1, &set("teamId", "web"));
    device.push(&hub);
    assert_eq!(device.take(&hub), 1);
    let here = device.store.get(id(1)).unwrap().unwrap();
    assert_eq!(here.fields, fields([("teamId", "ios".into()), ("draft", "mine".into())]));
    assert_eq!(only(device.store.rejected().unwrap()).record.fields, fields([("teamId", "web".into())]));
}
