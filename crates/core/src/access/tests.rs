//! Rules path by path, and whose writes are news.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::change::{StateFields, between};
use super::*;
use crate::blazebinary::OwnedValue;
use crate::cell::{Cell, Content, Counter, Set};
use crate::merge::{Life, RecordState, Tombstone};
use crate::topology::FilterText;
use crate::{Hlc, ReplicaId, Stamp, Value};

const NOW: Timestamp = Timestamp(1_700_000_000_000_000);

fn ios() -> User {
    User { id: "alice".into(), teams: vec!["ios".into()], ..User::default() }
}

fn admin() -> User {
    User { roles: vec!["admin".into()], ..ios() }
}

/// The rules of the interface document.
fn team_rules() -> AccessSpec {
    let rule = |text: &str| Some(FilterText::new(text));
    AccessSpec {
        public: false,
        connect: rule(r#"user.id != "mallory""#),
        read: rule("record.public == true || record.teamId in user.teams"),
        insert: rule("record.teamId in user.teams"),
        update: rule("record.teamId in user.teams && old.teamId == record.teamId"),
        delete: rule(r#""admin" in user.roles"#),
        relay: rule(r#""relay" in user.roles"#),
        keys: None,
    }
}

fn rights(user: &User) -> Rights {
    AccessRules::compile(&team_rules()).unwrap().for_user(Some(user))
}

fn bug<const N: usize>(fields: [(&str, Value); N]) -> Record {
    let mut record = Record::new(RecordId::from_bytes([1; 16]));
    record.fields = fields.map(|(name, value)| (name.to_owned(), value)).into();
    record
}

#[test]
fn a_missing_rule_denies_and_public_grants() {
    let nobody = AccessRules::compile(&AccessSpec::default()).unwrap();
    assert_eq!(nobody, AccessRules::nothing());
    let record = bug([]);
    for (rules, allowed) in [(nobody, false), (AccessRules::public(), true)] {
        let rights = rules.for_user(Some(&admin()));
        assert_eq!((rights.may_connect(NOW), rights.may_relay(NOW)), (allowed, allowed));
        assert_eq!(rights.may_read(&record, NOW), allowed);
        for change in [
            Change::Insert { after: &record },
            Change::Update { before: &record, after: &record },
            Change::Delete { before: &record },
            Change::Replace { before: &record, after: &record },
        ] {
            assert_eq!(rights.check(&change, NOW).is_ok(), allowed);
        }
    }
    let public = AccessSpec { public: true, ..AccessSpec::default() };
    assert!(AccessRules::compile(&public).unwrap().is_public());
}

#[test]
fn a_rule_that_is_none_is_named() {
    let spec = AccessSpec { update: Some(FilterText::new("old.x ==")), ..AccessSpec::default() };
    let error = AccessRules::compile(&spec).unwrap_err();
    assert_eq!(error.rule, "update");
    assert!(error.to_string().starts_with("access rule `update`: "), "{error}");
}

#[test]
fn every_operation_asks_its_own_rule() {
    let (mine, theirs) = (bug([("teamId", "ios".into())]), bug([("teamId", "web".into())]));
    let unknown = bug([("title", "x".into())]);
    let user = rights(&ios());
    assert_eq!(user.check(&Change::Insert { after: &mine }, NOW), Ok(()));
    assert_eq!(user.check(&Change::Insert { after: &theirs }, NOW), Err(Operation::Insert));
    assert_eq!(user.check(&Change::Insert { after: &unknown }, NOW), Err(Operation::Insert));
    let update = |before, after| user.check(&Change::Update { before, after }, NOW);
    assert_eq!(update(&mine, &mine), Ok(()));
    assert_eq!(update(&theirs, &mine), Err(Operation::Update), "moved into the team");
    assert_eq!(update(&mine, &theirs), Err(Operation::Update), "moved out of it");
    assert_eq!(update(&unknown, &mine), Err(Operation::Update));
    assert_eq!(user.check(&Change::Delete { before: &mine }, NOW), Err(Operation::Delete));
    let replace = Change::Replace { before: &mine, after: &theirs };
    assert_eq!(user.check(&replace, NOW), Err(Operation::Delete));
    let admin = rights(&admin());
    assert_eq!(admin.check(&Change::Delete { before: &theirs }, NOW), Ok(()));
    assert_eq!(admin.check(&replace, NOW), Err(Operation::Insert));
}

#[test]
fn reading_connecting_and_relaying_ask_their_own_rules() {
    let user = rights(&ios());
    assert!(user.may_read(&bug([("public", true.into())]), NOW));
    assert!(user.may_read(&bug([("teamId", "ios".into())]), NOW));
    assert!(!user.may_read(&bug([("teamId", "web".into())]), NOW));
    assert!(!user.may_read(&bug([]), NOW));
    assert!(user.may_connect(NOW) && !user.may_relay(NOW));
    assert!(!rights(&User { id: "mallory".into(), ..User::default() }).may_connect(NOW));
    assert!(rights(&User { roles: vec!["relay".into()], ..User::default() }).may_relay(NOW));
}

#[test]
fn who_may_begin_the_keyring_is_said_or_whoever_writes() {
    let (both, writes) = (Some(FilterText::new("true")), Some(FilterText::new(r#""ios" in user.teams"#)));
    let begins = |keys: Option<&str>, insert: &Option<FilterText>, update: &Option<FilterText>| {
        let keys = keys.map(FilterText::new);
        let spec =
            AccessSpec { insert: insert.clone(), update: update.clone(), keys, ..AccessSpec::default() };
        AccessRules::compile(&spec).unwrap().for_user(Some(&ios())).may_begin_keyring(NOW)
    };
    assert!(begins(None, &both, &writes));
    assert!(!begins(None, &both, &None) && !begins(None, &None, &both), "who only inserts, or only updates");
    let never = Some(FilterText::new(r#""web" in user.teams"#));
    assert!(!begins(None, &never, &both), "the rule is there, and grants this user nothing");
    assert!(!begins(Some(r#""admin" in user.roles"#), &both, &both));
    let team = || Some(FilterText::new("record.teamId in user.teams"));
    let spec = AccessSpec { insert: team(), update: team(), ..AccessSpec::default() };
    let rules = AccessRules::compile(&spec).unwrap();
    assert!(rules.for_user(Some(&ios())).may_begin_keyring(NOW));
    assert!(!rules.for_user(None).may_begin_keyring(NOW), "of nobody nothing is known");
    let nowhere = User { teams: Vec::new(), ..ios() };
    assert!(!rules.for_user(Some(&nowhere)).may_begin_keyring(NOW));
    assert!(begins(Some(r#""ios" in user.teams"#), &None, &None));
}

#[test]
fn a_rule_about_connecting_that_looks_at_a_record_grants_nothing() {
    for text in ["!has(record.banned)", "record.x != 1", "!has(record.banned) && true"] {
        let spec = AccessSpec { connect: Some(FilterText::new(text)), ..AccessSpec::default() };
        assert!(!AccessRules::compile(&spec).unwrap().for_user(Some(&ios())).may_connect(NOW), "{text}");
    }
}

proptest! {
    /// Of nobody in particular nothing is known, of somebody not every claim: neither `x` nor `!x` grants.
    #[test]
    fn what_is_unknown_never_grants(claim in "[a-z]{1,8}", negate in any::<bool>(), nobody in any::<bool>()) {
        let text = if nobody {
            format!("user.id == \"{claim}\" || \"{claim}\" in user.roles")
        } else {
            format!("user.claims.{claim} == true")
        };
        let text = if negate { format!("!({text})") } else { text };
        let rule = || Some(FilterText::new(text.clone()));
        let spec = AccessSpec { connect: rule(), read: rule(), insert: rule(), update: rule(),
            delete: rule(), relay: rule(), keys: rule(), public: false };
        let user = User::default();
        let rights = AccessRules::compile(&spec).unwrap().for_user((!nobody).then_some(&user));
        let record = bug([]);
        prop_assert!(!rights.may_connect(NOW) && !rights.may_relay(NOW) && !rights.may_begin_keyring(NOW) && !rights.may_read(&record, NOW));
        for change in [
            Change::Insert { after: &record },
            Change::Delete { before: &record },
            Change::Update { before: &record, after: &record },
        ] {
            prop_assert!(rights.check(&change, NOW).is_err());
        }
    }
}

fn stamp(time: u64, writer: u8) -> Stamp {
    Stamp::new(Hlc(time), ReplicaId::from_bytes([writer; 16]))
}

fn register(time: u64, writer: u8, value: i64) -> Cell {
    Cell::write(stamp(time, writer), None, Content::Register(OwnedValue::from(&Value::Int(value))), 0)
}

fn state<const N: usize>(life: Life, cells: [(u32, Cell); N]) -> RecordState {
    RecordState { life, cells: cells.into() }
}

fn born(time: u64, writer: u8) -> Life {
    Life { born: Some(stamp(time, writer)), ..Life::default() }
}

/// The writers of what `incoming` adds to `before`.
fn news(before: &RecordState, incoming: &RecordState) -> Vec<u8> {
    let mut after = before.clone();
    after.merge(incoming.clone(), 9);
    let mut writers: Vec<u8> = super::news::writers(before, incoming, &after, |_, _| false)
        .iter()
        .map(|writer| writer.as_bytes()[0])
        .collect();
    writers.sort_unstable();
    writers.dedup();
    writers
}

#[test]
fn only_what_changes_something_is_news() {
    let known = state(born(1, 1), [(0, register(1, 1, 5)), (1, register(4, 2, 6))]);
    assert!(news(&known, &known).is_empty());
    assert_eq!(news(&RecordState::default(), &known), [1, 2]);
    let older = state(born(1, 1), [(1, register(3, 3, 7))]);
    assert!(news(&known, &older).is_empty(), "a write that loses");
    let newer = state(born(1, 1), [(0, register(1, 1, 5)), (1, register(5, 3, 7))]);
    assert_eq!(news(&known, &newer), [3]);
    let dead = Some(Tombstone::new(stamp(7, 4), &known));
    assert_eq!(news(&known, &state(Life { dead, ..known.life }, [])), [4]);
    let reborn = Life { after: Some(stamp(7, 4)), born: Some(stamp(8, 3)), dead: None };
    assert_eq!(news(&known, &state(reborn, [(0, register(8, 3, 1))])), [3, 4]);
}

#[test]
fn news_of_a_counter_are_the_tallies_that_grow() {
    let base = Some(stamp(1, 1));
    let counter = |tallies: &[(u8, u64)], time, writer| {
        let tallies = tallies.iter().map(|(no, up)| (ReplicaId::from_bytes([*no; 16]), (*up, 0))).collect();
        Cell::write(
            stamp(time, writer),
            None,
            Content::Counter(Counter { base, tallies, ..Counter::default() }),
            0,
        )
    };
    let known = state(born(1, 1), [(0, counter(&[(1, 2), (2, 3)], 4, 2))]);
    let mine = state(born(1, 1), [(0, counter(&[(1, 2), (2, 3), (3, 1)], 5, 3))]);
    assert_eq!(news(&known, &mine), [3]);
    let forged = state(born(1, 1), [(0, counter(&[(1, 2), (2, 9), (3, 1)], 5, 3))]);
    assert_eq!(news(&known, &forged), [2, 3]);
}

#[test]
fn news_of_a_set_are_additions_and_operations_not_seen() {
    let set = |element: &str, dots: &[(u8, u64)], seen: &[(u8, u64)]| {
        let times = |times: &[(u8, u64)]| -> BTreeMap<ReplicaId, Hlc> {
            times.iter().map(|(no, time)| (ReplicaId::from_bytes([*no; 16]), Hlc(*time))).collect()
        };
        let elements = BTreeMap::from([(OwnedValue::from(&Value::from(element)), times(dots))]);
        let set = Set { base: Some(stamp(1, 1)), elements, seen: times(seen) };
        Cell::write(stamp(5, 3), None, Content::Set(set), 0)
    };
    let known = state(born(1, 1), [(0, set("a", &[(1, 1)], &[(1, 1), (3, 5)]))]);
    let mine = state(born(1, 1), [(0, set("b", &[(3, 6)], &[(1, 1), (3, 6)]))]);
    assert_eq!(news(&known, &mine), [3]);
    let forged = state(born(1, 1), [(0, set("b", &[(2, 6)], &[(1, 1), (2, 6), (3, 5)]))]);
    assert_eq!(news(&known, &forged), [2]);
}

#[test]
fn states_tell_what_changed() {
    let title = |name: &str| (name == "title").then_some(0);
    let id = RecordId::from_bytes([1; 16]);
    let fields = |state| StateFields { id, state, field_no: &title };
    let nothing = RecordState::default();
    let alive = state(born(1, 1), [(0, register(1, 1, 5))]);
    let gone = state(Life { dead: Some(Tombstone::new(stamp(2, 1), &alive)), ..alive.life }, []);
    let again = state(Life { after: Some(stamp(2, 1)), ..born(3, 1) }, [(0, register(3, 1, 6))]);
    let revived = state(Life { born: Some(stamp(3, 1)), ..gone.life }, [(0, register(3, 1, 6))]);
    let kind = |before, after| match between(&fields(before), &fields(after)) {
        None => "nothing",
        Some(Change::Insert { .. }) => "insert",
        Some(Change::Update { .. }) => "update",
        Some(Change::Delete { .. }) => "delete",
        Some(Change::Replace { .. }) => "replace",
    };
    assert_eq!(kind(&nothing, &alive), "insert");
    assert_eq!(kind(&alive, &alive), "update");
    assert_eq!(kind(&alive, &gone), "delete");
    assert_eq!(kind(&gone, &again), "insert");
    assert_eq!(kind(&alive, &again), "replace");
    assert_eq!(kind(&alive, &revived), "replace");
    assert_eq!(kind(&nothing, &gone), "nothing");
    assert_eq!(fields(&alive).field("title").as_deref(), Some(&Value::Int(5)));
    assert_eq!(fields(&alive).field("other"), None);
}
