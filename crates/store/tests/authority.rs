//! What a parent makes of its children's writes, in files: decisions, refusals, and what comes twice.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that can't go on fails where it stands"
)]

mod common;

use std::sync::Arc;

use blazedb_core::access::{AccessRules, Operation};
use blazedb_core::authority::Standing;
use blazedb_core::feed::{Incoming, PeerNames};
use blazedb_core::merge::ConflictKind;
use blazedb_core::topology::{AccessSpec, FilterText};
use blazedb_core::view::View;
use blazedb_core::{FieldEdit, NodeId, Value};
use blazedb_store::{Applied, CheckedBatch, Conflict, Gate, Resolution, Source, Store, StoreError};
use common::*;

const LINK: &str = "link";

/// Everything that `from` has and `to` lacks, or with `again` all of it once more.
fn batch(
    from: &Store,
    to: &Store,
    again: bool,
    standing: Standing,
    gate: Option<&Arc<Gate>>,
) -> CheckedBatch {
    let (no, has) = from.peer(LINK, to.replica()).unwrap();
    let (from_no, after) = to.peer(LINK, from.replica()).unwrap();
    let after = if again { 0 } else { after.unwrap_or(0) };
    let batch = from.feed(after, usize::MAX, &everything()).unwrap();
    let data = if again { batch.data.clone() } else { batch.data_for(no) };
    let mut names = PeerNames::default();
    assert!(names.learn(batch.names));
    let (checkpoint, peer_has) = (Some(batch.upto), has.unwrap_or(0));
    let incoming = Incoming { data, checkpoint, peer_has, names: Arc::new(names) };
    let source = Source::new(LINK.into(), from.replica(), from_no).standing(standing).behind(gate.cloned());
    to.check(source, incoming).unwrap()
}

fn push(child: &Store, parent: &Store) -> Applied {
    parent.apply(&[batch(child, parent, false, Standing::Child, None)]).unwrap()
}

fn pull(child: &Store, parent: &Store) {
    child.apply(&[batch(parent, child, false, Standing::Authority, None)]).unwrap();
}

/// The child takes what the parent refused.
fn take(child: &Store, parent: &Store) {
    let (no, _) = parent.peer(LINK, child.replica()).unwrap();
    let last = hear(child, parent);
    let source = Source::new(LINK.into(), child.replica(), no).standing(Standing::Child);
    parent.apply(&[CheckedBatch::forget_refusals(source, last)]).unwrap();
}

/// The child takes what the parent refused, and the parent does not hear of that.
fn hear(child: &Store, parent: &Store) -> u64 {
    let (no, _) = parent.peer(LINK, child.replica()).unwrap();
    let (parent_no, _) = child.peer(LINK, parent.replica()).unwrap();
    let told = Source::new(LINK.into(), child.replica(), no).standing(Standing::Child);
    let (refusals, _) = parent.refusals(&told, 0, &Arc::new(View::all())).unwrap();
    let last = refusals.last();
    let source = Source::new(LINK.into(), parent.replica(), parent_no).standing(Standing::Authority);
    child.apply(&[child.check_refusals(source, refusals).unwrap()]).unwrap();
    last
}

fn sync(child: &Store, parent: &Store) {
    push(child, parent);
    take(child, parent);
    pull(child, parent);
}

/// A parent and children that hold one record.
fn star<const N: usize>() -> (Temp, [Temp; N]) {
    let (parent, children) = (Temp::new(), std::array::from_fn(|_| Temp::new()));
    insert(&parent, 1, [("title", "?".into()), ("n", 0.into())]);
    children.iter().for_each(|child: &Temp| sync(child, &parent));
    (parent, children)
}

fn title(store: &Store) -> Option<Value> {
    store.get_field(id(1), "title").unwrap()
}

fn only(conflicts: Vec<Conflict>) -> (Option<Value>, ConflictKind) {
    assert_eq!(conflicts.len(), 1, "{conflicts:?}");
    (conflicts[0].value.clone(), conflicts[0].kind)
}

#[test]
fn the_first_to_come_stands_whatever_the_clocks_say() {
    for ahead in [0, 1] {
        let (parent, [one, two]) = star();
        [&one, &two][ahead].clock.advance(60_000);
        update(&one, 1, &set("title", "one"));
        update(&two, 1, &set("title", "two"));
        [&one, &two, &one].into_iter().for_each(|child| sync(child, &parent));
        for store in [&parent, &one, &two] {
            assert_eq!(title(store), Some("one".into()));
        }
        assert_eq!(only(two.conflicts().unwrap()).0, Some("two".into()));
        assert_eq!(one.conflicts().unwrap(), []);
        assert_eq!(only(parent.conflicts().unwrap()), (Some("two".into()), ConflictKind::Decided));
    }
}

#[test]
fn what_comes_twice_is_decided_once() {
    let (parent, [one, two]) = star();
    two.clock.advance(60_000);
    update(&one, 1, &set("title", "one"));
    update(&two, 1, &set("title", "two"));
    push(&one, &parent);
    push(&two, &parent);
    let (head, all) = (parent.head(), export(&parent));
    // The acknowledgement was lost, or the whole checkpoint.
    for child in [&two, &one, &two] {
        let again = batch(child, &parent, true, Standing::Child, None);
        assert_eq!(parent.apply(&[again]).unwrap().changed, 0);
    }
    assert_eq!((parent.head(), export(&parent)), (head, all));
    assert_eq!(parent.conflicts().unwrap().len(), 1);
    // In one commit, too.
    let (parent, [one, two]) = star();
    update(&one, 1, &set("title", "one"));
    update(&two, 1, &set("title", "two"));
    let batches = [&one, &two].map(|child| batch(child, &parent, false, Standing::Child, None));
    parent.apply(&batches).unwrap();
    [&one, &two].into_iter().for_each(|child| sync(child, &parent));
    for store in [&parent, &one, &two] {
        assert_eq!(title(store), Some("one".into()));
    }
}

#[test]
fn counters_are_added_and_other_fields_stay_apart() {
    let (parent, [one, two]) = star();
    let count = |amount| edits([("votes", FieldEdit::Increment(amount))]);
    update(&one, 1, &count(2));
    update(&two, 1, &count(3));
    update(&two, 1, &set("n", 7));
    [&one, &two, &one].into_iter().for_each(|child| sync(child, &parent));
    for store in [&parent, &one, &two] {
        assert_eq!(store.get_field(id(1), "votes").unwrap(), Some(Value::Counter(5)));
        assert_eq!(store.get_field(id(1), "n").unwrap(), Some(7.into()));
        assert_eq!(store.conflicts().unwrap(), []);
    }
}

#[test]
fn a_resolver_keeps_takes_merges_and_refuses() {
    let (parent, [one, two]) = star();
    parent.set_resolver(Some(Arc::new(|dispute| match (dispute.field, &dispute.parent, &dispute.child) {
        (Some("taken"), ..) => Resolution::TakeChild,
        (Some("sum"), Some(Value::Int(a)), Some(Value::Int(b))) => Resolution::Merge((a + b).into()),
        (Some("refused"), ..) => Resolution::Refuse("not yours".into()),
        (Some("panics"), ..) => panic!("an application's mistake"),
        _ => Resolution::KeepParent,
    })));
    // Whoever is later by the clock is of no account.
    one.clock.advance(60_000);
    for (value, child) in [(1, &one), (2, &two)] {
        let all = ["taken", "sum", "panics", "kept"].map(|field| (field, FieldEdit::Set(value.into())));
        update(child, 1, &edits(all));
    }
    [&one, &two, &one].into_iter().for_each(|child| sync(child, &parent));
    for store in [&parent, &one, &two] {
        let field = |name| store.get_field(id(1), name).unwrap();
        assert_eq!(
            ["taken", "sum", "panics", "kept"].map(field),
            [Some(2.into()), Some(3.into()), Some(1.into()), Some(1.into())]
        );
    }
    for child in [&one, &two] {
        update(child, 1, &set("refused", 1 + i64::from(child.replica() == two.replica())));
    }
    update(&two, 1, &set("n", 5));
    [&one, &two, &one].into_iter().for_each(|child| sync(child, &parent));
    let rejected = two.rejected().unwrap();
    assert_eq!((rejected.len(), rejected[0].reason.as_str()), (1, "not yours"));
    assert_eq!(rejected[0].record.fields, fields([("refused", 2.into()), ("n", 5.into())]));
    for store in [&parent, &one, &two] {
        assert_eq!(store.get_field(id(1), "refused").unwrap(), Some(1.into()));
        assert_eq!(store.get_field(id(1), "n").unwrap(), Some(0.into()));
    }
}

#[test]
fn a_deletion_that_missed_an_edit_is_refused_and_does_not_reach_others() {
    let (parent, [one, two, three]) = star();
    update(&one, 1, &set("title", "edited"));
    delete(&two, 1);
    update(&three, 1, &set("n", 3));
    push(&one, &parent);
    assert_eq!(push(&two, &parent).refused, 1);
    take(&two, &parent);
    let rejected = two.rejected().unwrap();
    assert_eq!((rejected.len(), rejected[0].operation), (1, Operation::Delete));
    for child in [&two, &three, &one, &two] {
        sync(child, &parent);
    }
    for store in [&parent, &one, &two, &three] {
        assert_eq!(title(store), Some("edited".into()));
        assert_eq!(export(store), export(&parent));
    }
    // What was written to the record before it was decided about is not lost silently.
    assert_eq!(only(three.conflicts().unwrap()).0, Some(3.into()));
    // A deletion that knows all of it is taken.
    delete(&two, 1);
    [&two, &one, &three].into_iter().for_each(|child| sync(child, &parent));
    assert!([&parent, &one, &two, &three].iter().all(|store| export(store).is_empty()));
}

#[test]
fn what_rules_refuse_of_a_relay_is_overruled_where_it_has_gone() {
    let rule = |text: &str| Some(FilterText::new(text));
    let spec = AccessSpec {
        public: false,
        connect: rule("true"),
        read: rule("true"),
        insert: rule("record.n < 5"),
        update: rule("record.n < 5"),
        delete: rule("false"),
        relay: rule("true"),
        keys: None,
    };
    let rights = AccessRules::compile(&spec).unwrap().for_user(None);
    let gate = Arc::new(Gate { rights, node: NodeId::from_bytes([1; 16]) });
    let (master, edge, device) = (Temp::new(), Temp::new(), Temp::new());
    insert(&device, 1, [("title", "?".into()), ("n", 0.into())]);
    insert(&device, 2, [("n", 9.into())]);
    let up = |edge: &Store| {
        let applied = master.apply(&[batch(edge, &master, false, Standing::Child, Some(&gate))]).unwrap();
        take(edge, &master);
        pull(edge, &master);
        applied.refused
    };
    sync(&device, &edge);
    assert_eq!(up(&edge), 1);
    sync(&device, &edge);
    update(&device, 1, &set("n", 8));
    sync(&device, &edge);
    assert_eq!(up(&edge), 1);
    sync(&device, &edge);
    delete(&device, 1);
    sync(&device, &edge);
    assert_eq!(up(&edge), 1);
    sync(&device, &edge);
    for store in [&master, &edge, &device] {
        assert_eq!(export(store).len(), 1, "{:?}", export(store));
        assert_eq!(store.get_field(id(1), "n").unwrap(), Some(0.into()));
    }
    let operations = [Operation::Insert, Operation::Update, Operation::Delete];
    for store in [&edge, &device] {
        let refused = store.rejected().unwrap();
        assert_eq!(refused.iter().map(|write| write.operation).collect::<Vec<_>>(), operations);
        let lost: Vec<_> = refused.iter().map(|write| write.record.get("n").cloned()).collect();
        assert_eq!(lost, [Some(9.into()), Some(8.into()), None]);
        assert!(refused.iter().all(|write| write.reason.contains("access rule")), "{refused:?}");
    }
    assert_eq!(up(&edge), 0, "what was overruled does not come again");
}

/// What lost is let through without a right, because it changes nothing: a resolver does not change that.
#[test]
fn what_rules_do_not_allow_no_resolver_makes_win() {
    let rule = |text: &str| Some(FilterText::new(text));
    let spec = |update: &str| AccessSpec {
        connect: rule("true"),
        read: rule("true"),
        update: rule(update),
        ..AccessSpec::default()
    };
    // Of the first, not even what lost may be logged; of the second it may.
    for (update_rule, n, logged) in [("false", 9, 0), ("record.n < 5", 9, 1), ("record.n < 5", 4, 1)] {
        let (parent, [one]) = star();
        parent.set_resolver(Some(Arc::new(|_| Resolution::TakeChild)));
        let rights = AccessRules::compile(&spec(update_rule)).unwrap().for_user(None);
        let gate = Arc::new(Gate { rights, node: NodeId::from_bytes([1; 16]) });
        parent.claim_replica(one.replica(), gate.node).unwrap();
        update(&one, 1, &set("n", n));
        parent.clock.advance(1_000);
        update(&parent, 1, &set("n", 3));
        parent.apply(&[batch(&one, &parent, false, Standing::Child, Some(&gate))]).unwrap();
        let stands = if n < 5 { n } else { 3 };
        assert_eq!(parent.get_field(id(1), "n").unwrap(), Some(stands.into()), "{update_rule}");
        assert_eq!(parent.conflicts().unwrap().len(), logged, "{update_rule}");
        take(&one, &parent);
        pull(&one, &parent);
        assert_eq!(one.get_field(id(1), "n").unwrap(), Some(stands.into()), "{update_rule}");
    }
}

#[test]
fn who_decides_about_a_replica_is_not_decided_about_by_it() {
    let (parent, [one]) = star();
    update(&one, 1, &set("title", "one"));
    let decider = parent.decided_by(one.replica());
    let ring = || parent.apply(&[batch(&one, &parent, false, Standing::Child, None)]);
    assert!(matches!(ring(), Err(StoreError::Ring)));
    drop(decider);
    assert!(!parent.is_decided_by(one.replica()));
    assert_eq!(ring().unwrap().changed, 1);
}

/// A master that refuses whatever it may, an edge below it, and devices below that, all of which hold one record; and a
/// child of the master that edits.
fn tree<const N: usize>() -> (Temp, Temp, Temp, [Temp; N]) {
    let (master, [edge, other]) = star();
    master.set_resolver(Some(Arc::new(|_| Resolution::Refuse("not yours".into()))));
    let devices = std::array::from_fn(|_| Temp::new());
    devices.iter().for_each(|device: &Temp| sync(device, &edge));
    (master, edge, other, devices)
}

fn rejected(store: &Store) -> Vec<(Operation, String)> {
    store.rejected().unwrap().into_iter().map(|write| (write.operation, write.reason)).collect()
}

#[test]
fn what_a_master_refuses_of_an_edge_is_told_to_who_wrote_it() {
    let (master, edge, other, [one, two]) = tree();
    update(&other, 1, &set("title", "other"));
    sync(&other, &master);
    update(&one, 1, &set("title", "one"));
    update(&two, 1, &set("n", 2));
    [&one, &two].into_iter().for_each(|device| sync(device, &edge));
    sync(&edge, &master);
    [&one, &two].into_iter().for_each(|device| sync(device, &edge));
    for (device, field, value) in [(&one, "title", Value::from("one")), (&two, "n", 2.into())] {
        let write = device.rejected().unwrap().pop().unwrap();
        assert_eq!((write.operation, write.reason.as_str()), (Operation::Update, "not yours"));
        assert_eq!(write.record.get(field), Some(&value));
        assert_eq!(title(device), Some("other".into()));
        assert_eq!(device.get_field(id(1), "n").unwrap(), Some(0.into()));
        assert_eq!(device.rejected_count().unwrap(), 1);
    }
    // Nobody has anything to say any more.
    let heads = [&master, &edge].map(|store| store.head());
    [(&one, &edge), (&two, &edge), (&edge, &master)]
        .into_iter()
        .for_each(|(child, parent)| sync(child, parent));
    assert_eq!([&master, &edge].map(|store| store.head()), heads);
}

#[test]
fn a_deletion_that_a_master_refuses_of_an_edge_is_told_to_who_made_it_and_can_be_made_again() {
    let (master, edge, other, [device, _]) = tree::<2>();
    update(&other, 1, &set("title", "other"));
    sync(&other, &master);
    delete(&device, 1);
    sync(&device, &edge);
    sync(&edge, &master);
    sync(&device, &edge);
    for store in [&edge, &device] {
        assert_eq!(rejected(store), [(Operation::Delete, "not yours".to_owned())]);
        assert_eq!(title(store), Some("other".into()));
    }
    device.retry_rejected(id(1)).unwrap();
    [(&device, &edge), (&edge, &master)].into_iter().for_each(|(child, parent)| sync(child, parent));
    assert!([&master, &edge, &device].iter().all(|store| export(store).is_empty()));
}

#[test]
fn of_two_who_deleted_a_record_both_hear_that_it_is_there_again() {
    let (master, edge, other, [one, two]) = tree();
    update(&other, 1, &set("title", "other"));
    sync(&other, &master);
    delete(&one, 1);
    two.clock.advance(1_000);
    delete(&two, 1);
    [&one, &two, &one].into_iter().for_each(|device| sync(device, &edge));
    sync(&edge, &master);
    for device in [&one, &two] {
        sync(device, &edge);
        assert_eq!(title(device), Some("other".into()));
        let rejected = rejected(device);
        assert_eq!(rejected.len(), 1, "{rejected:?}");
        assert_eq!(rejected[0].0, Operation::Delete);
    }
    // Another one, which had not heard of all that, is refused as well.
    let (master, [one, two, three]) = star();
    update(&one, 1, &set("title", "edited"));
    [&two, &three].into_iter().for_each(|child| delete(child, 1));
    [&one, &two, &three].into_iter().for_each(|child| sync(child, &master));
    for child in [&two, &three] {
        assert_eq!(rejected(child).len(), 1);
        assert_eq!(title(child), Some("edited".into()));
    }
}

#[test]
fn who_hears_of_the_decision_before_the_refusal_finds_the_deletion_all_the_same() {
    let (master, [one, two]) = star();
    update(&one, 1, &set("title", "edited"));
    sync(&one, &master);
    // A peer brings the deletion to the parent, and the parent's decision back.
    delete(&two, 1);
    one.apply(&[batch(&two, &one, false, Standing::Peer, None)]).unwrap();
    sync(&one, &master);
    two.apply(&[batch(&one, &two, false, Standing::Peer, None)]).unwrap();
    assert_eq!(title(&two), Some("edited".into()));
    assert_eq!(rejected(&two).len(), 1);
    sync(&two, &master);
    assert_eq!(rejected(&two).len(), 1, "once");
}

#[test]
fn what_a_refusal_takes_with_it_when_it_is_told_again_is_kept_as_well() {
    let (parent, [one, two, three]) = star();
    parent.set_resolver(Some(Arc::new(|_| Resolution::Refuse("not yours".into()))));
    update(&one, 1, &set("title", "one"));
    sync(&one, &parent);
    update(&two, 1, &set("title", "two"));
    push(&two, &parent);
    hear(&two, &parent);
    update(&two, 1, &set("title", "newer"));
    // Later by the clock, the parent writes all of it again.
    parent.clock.advance(60_000);
    delete(&three, 1);
    push(&three, &parent);
    take(&two, &parent);
    let titles: Vec<_> =
        two.rejected().unwrap().iter().map(|write| write.record.get("title").cloned()).collect();
    assert_eq!(titles, [Some("two".into()), Some("newer".into())]);
    assert_eq!(title(&two), Some("one".into()));
}
