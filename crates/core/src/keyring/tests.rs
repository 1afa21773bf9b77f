//! What a keyring lets whom do, and what a hub in between can't.

use super::*;
use crate::seal::Secret;
use crate::topology::EncryptionSpec;

struct Party {
    secret: MemberSecret,
    calls: std::cell::Cell<u8>,
    random: std::cell::RefCell<Secret>,
}

impl Party {
    fn new(seed: u8) -> Self {
        let secret = MemberSecret::new(Secret::new([seed; 32]));
        Self { secret, calls: Default::default(), random: std::cell::RefCell::new(Secret::new([seed; 32])) }
    }

    fn id(&self) -> MemberId {
        self.secret.id().unwrap()
    }

    /// Something random that was never given out before.
    fn act<T>(&self, act: impl FnOnce(Author<'_>) -> T) -> T {
        self.calls.set(self.calls.get() + 1);
        let random = self.random.borrow().derive(&[self.calls.get()], b"test");
        act(Author { secret: &self.secret, random: &random, now_ms: 1_700_000_000_000 })
    }

    fn create(&self) -> Keyring {
        Keyring::begin(&self.act(|author| Keyring::create(author, "creator", None, rule()).unwrap())).unwrap()
    }

    fn invite(&self, keyring: &mut Keyring, code: &Party, history: bool) {
        let invited = &code.secret;
        let statement = self.act(|a| keyring.invite(a, invited, MemberKind::Invitation, "new", history, 1));
        keyring.extend(&statement.unwrap()).unwrap();
    }

    fn join(&self, keyring: &mut Keyring, code: &Party) {
        let statement = code.act(|author| keyring.join(author, &self.secret, "joined")).unwrap();
        keyring.extend(&statement).unwrap();
    }

    fn epochs(&self, keyring: &Keyring) -> Vec<u32> {
        keyring.unlock(&self.secret).map(|unlocked| unlocked.values.into_keys().collect()).unwrap_or_default()
    }
}

fn rule() -> EncryptionSpec {
    EncryptionSpec::E2eOnly { routing_fields: vec!["teamId".to_owned()] }
}

fn reread(keyring: &Keyring) -> Keyring {
    Keyring::of(keyring.statements(0).iter().map(|bytes| &**bytes)).unwrap().unwrap()
}

#[test]
fn members_come_by_invitation_and_all_have_the_same_keys() {
    let (creator, code, device) = (Party::new(1), Party::new(2), Party::new(3));
    let mut keyring = creator.create();
    creator.invite(&mut keyring, &code, true);
    device.join(&mut keyring, &code);
    assert_eq!(
        keyring.unlock(&creator.secret).unwrap().values,
        keyring.unlock(&device.secret).unwrap().values
    );
    assert_eq!(keyring.members().count(), 2, "the invitation is used up");
    // Nobody joins with it a second time.
    let again = code.act(|author| keyring.join(author, &Party::new(4).secret, "thief"));
    assert_eq!(again, Err(KeyringError::SpentCode));
    let read = reread(&keyring);
    assert_eq!((read.head(), read.rule(), read.epoch()), (keyring.head(), &rule(), 1));
}

#[test]
fn who_was_removed_gets_no_later_key_and_who_stays_gets_all() {
    let (creator, code, device) = (Party::new(1), Party::new(2), Party::new(3));
    let mut keyring = creator.create();
    creator.invite(&mut keyring, &code, true);
    device.join(&mut keyring, &code);
    for _ in 0..2 {
        keyring.extend(&creator.act(|author| keyring.rotate(author)).unwrap()).unwrap();
    }
    assert_eq!(device.epochs(&keyring), [1, 2, 3]);
    keyring.extend(&creator.act(|author| keyring.remove(author, &[device.id()])).unwrap()).unwrap();
    keyring.extend(&creator.act(|author| keyring.rotate(author)).unwrap()).unwrap();
    assert_eq!(device.epochs(&keyring), [1, 2, 3]);
    assert_eq!(creator.epochs(&keyring), [1, 2, 3, 4, 5]);
    // What it says from now on is refused.
    let statement = device.act(|author| keyring.rotate(author));
    assert!(statement.is_err());
    let rule = device.act(|author| keyring.set_rule(author, EncryptionSpec::SmartProxy)).unwrap();
    assert_eq!(keyring.extend(&rule), Err(KeyringError::NotAllowed(device.id())));
}

#[test]
fn history_is_given_or_not() {
    let (creator, with, without) = (Party::new(1), Party::new(3), Party::new(5));
    let mut keyring = creator.create();
    keyring.extend(&creator.act(|author| keyring.rotate(author)).unwrap()).unwrap();
    creator.invite(&mut keyring, &Party::new(2), true);
    with.join(&mut keyring, &Party::new(2));
    assert_eq!(with.epochs(&keyring), [1, 2]);
    creator.invite(&mut keyring, &Party::new(4), false);
    // Between the invitation and its use the keys change.
    keyring.extend(&creator.act(|author| keyring.rotate(author)).unwrap()).unwrap();
    without.join(&mut keyring, &Party::new(4));
    assert_eq!(without.epochs(&keyring), [3, 4], "only what was written since it was invited");
    keyring.extend(&with.act(|author| keyring.rotate(author)).unwrap()).unwrap();
    assert_eq!(without.epochs(&keyring), [3, 4, 5]);
    assert_eq!(creator.epochs(&keyring), [1, 2, 3, 4, 5]);
    // It can't give what it does not have.
    let code = Party::new(6);
    assert!(without.act(|a| keyring.invite(a, &code.secret, MemberKind::Invitation, "x", true, 1)).is_err());
}

#[test]
fn a_hub_that_offers_a_keyring_of_its_own_is_found_out() {
    let (creator, hub, code) = (Party::new(1), Party::new(7), Party::new(2));
    let mut real = creator.create();
    creator.invite(&mut real, &code, true);
    let Act::Invite { member, .. } = Statement::decode(real.statements(1)[0].as_ref()).unwrap().0.act else {
        panic!()
    };
    // The hub knows the public keys of the invitation and everything else that was said.
    let mut forged = hub.create();
    let keys = Keys::Current(vec![0; 100]);
    let act = Act::Invite { member, root_proof: [0; 32], keys };
    let statement = Statement { parent: forged.head().hash, author: hub.id(), at_ms: 0, act };
    forged.extend(&statement.sign(&hub.secret).unwrap()).unwrap();
    assert_eq!(forged.check_root(&code.secret), Err(KeyringError::ForeignRoot));
    assert!(code.act(|author| forged.join(author, &Party::new(3).secret, "victim")).is_err());
    assert_eq!(real.check_root(&code.secret), Ok(code.id()));
    // Nor can it say anything in the real one.
    let act = Act::Rule(EncryptionSpec::SmartProxy);
    let forgery = Statement { parent: real.head().hash, author: hub.id(), at_ms: 0, act: act.clone() };
    assert_eq!(real.extend(&forgery.sign(&hub.secret).unwrap()), Err(KeyringError::NotAllowed(hub.id())));
    let posing = Statement { parent: real.head().hash, author: creator.id(), at_ms: 0, act };
    assert_eq!(real.extend(&posing.sign(&hub.secret).unwrap()), Err(KeyringError::Signature));
}

#[test]
fn a_statement_follows_the_last_or_is_refused() {
    let creator = Party::new(1);
    let mut keyring = creator.create();
    let (one, two) =
        (creator.act(|a| keyring.rotate(a)).unwrap(), creator.act(|a| keyring.rotate(a)).unwrap());
    let before = keyring.head();
    keyring.extend(&one).unwrap();
    assert_eq!(keyring.extend(&two), Err(KeyringError::Parent));
    assert!(keyring.begins_with(&before) && keyring.begins_with(&keyring.head()));
    assert!(!keyring.begins_with(&KeyringHead { count: 1, hash: [1; 32] }));
    assert!(!keyring.begins_with(&KeyringHead { count: 3, hash: [1; 32] }));
}

#[test]
fn every_flipped_bit_of_a_statement_is_found() {
    let creator = Party::new(1);
    let mut keyring = creator.create();
    let statement = creator.act(|a| keyring.set_rule(a, rule())).unwrap();
    for at in 0..statement.len() {
        let mut flipped = statement.clone();
        flipped[at] ^= 1;
        assert!(keyring.extend(&flipped).is_err(), "byte {at}");
    }
    keyring.extend(&statement).unwrap();
}

#[test]
fn codes_and_phrases_survive_typing_and_slips_are_found() {
    let (code, text) = Code::invitation([7; 16]);
    assert_eq!(Code::parse(&text.to_uppercase()), Ok(code.clone()));
    assert!(Code::parse(&text.replace('7', "8")).is_err());
    let (phrase, words) = Code::recovery([8; 32]).unwrap();
    assert_eq!(words.split(' ').count(), 24);
    assert_eq!(Code::parse(&words.replace(' ', "  \n")), Ok(phrase.clone()));
    assert!(Code::parse(&words.replacen(words.split(' ').next().unwrap(), "zebra", 1)).is_err());
    assert_ne!(code.member().id(), phrase.member().id());
}

#[test]
fn a_recovery_phrase_and_a_passphrase_let_devices_in_again_and_again() {
    let creator = Party::new(1);
    let mut keyring = creator.create();
    let (phrase, _) = Code::recovery([8; 32]).unwrap();
    let statement =
        creator.act(|a| keyring.invite(a, &phrase.member(), MemberKind::Recovery, "recovery", true, 1));
    keyring.extend(&statement.unwrap()).unwrap();
    keyring.extend(&creator.act(|a| keyring.remove(a, &[creator.id()])).unwrap()).unwrap();
    let code = Party { secret: phrase.member(), ..Party::new(9) };
    for seed in [20, 21] {
        let device = Party::new(seed);
        device.join(&mut keyring, &code);
        assert_eq!(device.epochs(&keyring), [1, 2]);
    }
    let group = Party { secret: passphrase_member("correct horse", &[3; 16]).unwrap(), ..Party::new(9) };
    let first = group.act(|author| Keyring::create(author, "passphrase", Some([3; 16]), rule())).unwrap();
    let mut keyring = Keyring::begin(&first).unwrap();
    let device = Party::new(30);
    device.join(&mut keyring, &group);
    assert_eq!(device.epochs(&keyring), [1]);
    let wrong = passphrase_member("wrong", keyring.salt().unwrap()).unwrap();
    assert_eq!(keyring.check_root(&wrong), Err(KeyringError::UnknownCode));
}

#[test]
fn each_epoch_has_one_dictionary_for_those_who_have_its_key() {
    let [creator, invited, device, without, late] = [1, 2, 3, 4, 5].map(Party::new);
    let mut keyring = creator.create();
    let share = |party: &Party, keyring: &Keyring, bytes: &[u8]| {
        party.act(|author| keyring.share_dictionary(author, bytes)).unwrap()
    };
    let dictionaries = |party: &Party, keyring: &Keyring| -> Vec<u32> {
        let keys = keyring.seal_keys(&keyring.unlock(&party.secret).unwrap()).unwrap();
        keys.epochs().filter(|epoch| keys.dictionary(*epoch).is_some()).collect()
    };
    let concurrent = share(&creator, &keyring, b"another");
    keyring.extend(&share(&creator, &keyring, b"first")).unwrap();
    assert!(keyring.has_dictionary());
    assert_eq!(keyring.extend(&concurrent), Err(KeyringError::Parent));
    let again = share(&creator, &keyring, b"second");
    assert!(matches!(keyring.extend(&again), Err(KeyringError::Contradiction(_))));
    creator.invite(&mut keyring, &invited, true);
    device.join(&mut keyring, &invited);
    // Another epoch, whose members may not read the one before.
    creator.invite(&mut keyring, &without, false);
    late.join(&mut keyring, &without);
    assert!(!keyring.has_dictionary());
    let huge = vec![1; crate::limits::MAX_DICTIONARY_BYTES + 1];
    assert!(matches!(keyring.extend(&share(&device, &keyring, &huge)), Err(KeyringError::Contradiction(_))));
    keyring.extend(&share(&late, &keyring, b"of the new epoch")).unwrap();
    // A hub knows no key and takes them as well.
    let keyring = reread(&keyring);
    assert_eq!(dictionaries(&creator, &keyring), [1, 2]);
    assert_eq!(dictionaries(&device, &keyring), [1, 2]);
    assert_eq!(dictionaries(&late, &keyring), [2]);
}

/// A member that was removed, and a hub, may show an invited device the keyring as it was before that: as a member it could put
/// in the invitation there as well, with the proof that it has seen.
#[test]
fn an_invitation_is_good_for_the_keyring_that_its_maker_had_and_not_for_an_older_one() {
    let [creator, first, removed, code, device] = [1, 2, 3, 4, 5].map(Party::new);
    let mut keyring = creator.create();
    creator.invite(&mut keyring, &first, true);
    removed.join(&mut keyring, &first);
    let mut older = keyring.clone();
    keyring.extend(&creator.act(|author| keyring.remove(author, &[removed.id()])).unwrap()).unwrap();
    let agreed = keyring.head().count;
    let invites = creator
        .act(|a| keyring.invite(a, &code.secret, MemberKind::Invitation, "new", true, agreed))
        .unwrap();
    keyring.extend(&invites).unwrap();
    let (statement, ..) = Statement::decode(&invites).unwrap();
    let Act::Invite { member, root_proof, .. } = statement.act else { unreachable!() };
    let copied = removed.act(|author| {
        older.remake(author, Act::Invite { member, root_proof, keys: Keys::Current(Vec::new()) })
    });
    older.extend(&copied.unwrap()).unwrap();
    let joins = |keyring: &Keyring| code.act(|author| keyring.join(author, &device.secret, "joined"));
    assert_eq!(joins(&older), Err(KeyringError::ForeignRoot));
    assert!(joins(&keyring).is_ok());
}

/// Whoever comes after such an epoch would never read what was before.
#[test]
fn who_has_no_history_begins_no_epoch() {
    let [creator, without, late, other] = [1, 2, 3, 4].map(Party::new);
    let mut keyring = creator.create();
    creator.invite(&mut keyring, &without, false);
    late.join(&mut keyring, &without);
    let next = late.act(|author| keyring.rotate(author)).unwrap();
    assert!(matches!(keyring.extend(&next), Err(KeyringError::Contradiction(_))));
    let next = late.act(|author| keyring.remove(author, &[creator.id()])).unwrap();
    assert!(matches!(keyring.extend(&next), Err(KeyringError::Contradiction(_))));
    let invites =
        late.act(|author| keyring.invite(author, &other.secret, MemberKind::Invitation, "new", false, 1));
    assert!(matches!(keyring.extend(&invites.unwrap()), Err(KeyringError::Contradiction(_))));
    keyring.extend(&creator.act(|author| keyring.rotate(author)).unwrap()).unwrap();
    assert_eq!(creator.epochs(&keyring), [1, 2, 3]);
}

/// Nobody but who it is for can check what a member wraps: garbage costs its own epoch, and nothing else.
#[test]
fn keys_that_do_not_open_are_keys_that_one_does_not_have() {
    let [creator, invited, device] = [1, 2, 3].map(Party::new);
    let mut keyring = creator.create();
    creator.invite(&mut keyring, &invited, true);
    device.join(&mut keyring, &invited);
    let (mut statement, ..) =
        Statement::decode(&device.act(|author| keyring.rotate(author)).unwrap()).unwrap();
    let Act::Rotate(epoch) = &mut statement.act else { unreachable!() };
    epoch.previous.iter_mut().for_each(|byte| *byte = !*byte);
    for (id, wrapped) in &mut epoch.wraps {
        if *id == creator.id() {
            wrapped.iter_mut().for_each(|byte| *byte = !*byte);
        }
    }
    keyring.extend(&statement.sign(&device.secret).unwrap()).unwrap();
    assert_eq!(creator.epochs(&keyring), [1]);
    // It can be told by whoever can, and undone.
    keyring.extend(&device.act(|author| keyring.rotate(author)).unwrap()).unwrap();
    assert_eq!(creator.epochs(&keyring), [1, 2, 3]);
}

/// Who is removed takes along the codes that it made: it knows them.
#[test]
fn the_codes_of_a_member_are_found() {
    let [creator, invited, device, unused, words] = [1, 2, 3, 4, 5].map(Party::new);
    let mut keyring = creator.create();
    creator.invite(&mut keyring, &invited, true);
    device.join(&mut keyring, &invited);
    device.invite(&mut keyring, &unused, true);
    let recovery =
        device.act(|author| keyring.invite(author, &words.secret, MemberKind::Recovery, "words", true, 1));
    keyring.extend(&recovery.unwrap()).unwrap();
    assert_eq!(keyring.codes_of(&[device.id()]), [unused.id(), words.id()]);
    assert_eq!(keyring.codes_of(&[creator.id()]), [], "the invitation was used");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The chain of the golden vectors: every act once, by members whose secrets are one byte 32 times.
fn vector_chain() -> (Keyring, Vec<(u8, MemberSecret)>) {
    let [creator, invited, device, without, late, words] = [1, 2, 3, 4, 5, 6].map(Party::new);
    let mut keyring = creator.create();
    creator.invite(&mut keyring, &invited, true);
    device.join(&mut keyring, &invited);
    keyring.extend(&device.act(|author| keyring.rotate(author)).unwrap()).unwrap();
    creator.invite(&mut keyring, &without, false);
    late.join(&mut keyring, &without);
    let recovery = creator.act(|author| {
        keyring.invite(author, &words.secret, MemberKind::Recovery, "recovery phrase", true, 1)
    });
    keyring.extend(&recovery.unwrap()).unwrap();
    let list = EncryptionSpec::Seal(vec!["salary".to_owned()]);
    keyring.extend(&creator.act(|author| keyring.set_rule(author, list)).unwrap()).unwrap();
    let settled = creator.act(|author| keyring.settle(author, &["$s.former".to_owned()]));
    keyring.extend(&settled.unwrap()).unwrap();
    keyring.extend(&creator.act(|author| keyring.remove(author, &[device.id()])).unwrap()).unwrap();
    let dictionary = creator.act(|author| keyring.share_dictionary(author, b"what records have in common"));
    keyring.extend(&dictionary.unwrap()).unwrap();
    let parties = [(1, creator), (3, device), (5, late), (6, words)];
    (keyring, parties.map(|(seed, party)| (seed, party.secret)).into())
}

/// What the golden vectors hold.
fn vectors() -> serde_json::Value {
    use serde_json::json;
    let (keyring, members) = vector_chain();
    let member = |(seed, secret): &(u8, MemberSecret)| {
        let public = secret.member(MemberKind::Device, "", false).unwrap();
        let unlocked = keyring.unlock(secret).unwrap();
        let values: serde_json::Map<_, _> = unlocked
            .values
            .iter()
            .map(|(epoch, secret)| (epoch.to_string(), hex(secret.as_bytes()).into()))
            .collect();
        json!({
            "secret": format!("{seed:02x}").repeat(32), "id": secret.id().unwrap().to_string(),
            "sign_key": hex(&public.sign_key), "wrap_key": hex(&public.wrap_key),
            "names": hex(unlocked.names.as_bytes()), "values": values,
        })
    };
    let (invitation, code) = Code::invitation([8; 16]);
    let (recovery, phrase) = Code::recovery([9; 32]).unwrap();
    let passphrase = passphrase_member("correct horse battery staple", &[10; 16]).unwrap();
    let id = |member: &MemberSecret| member.id().unwrap().to_string();
    let statements: Vec<String> = keyring.statements(0).iter().map(|bytes| hex(bytes)).collect();
    json!({
        "about": "Statements in order; every act occurs. Members by their secrets, with the keys that they can unlock.",
        "keyring": hex(keyring.database()),
        "fingerprint": hex(&keyring.root()),
        "head": hex(&keyring.head().hash),
        "statements": statements,
        "members": members.iter().map(member).collect::<Vec<_>>(),
        "codes": {
            "invitation": { "random": hex(&[8; 16]), "code": code, "member": id(&invitation.member()) },
            "recovery": { "entropy": hex(&[9; 32]), "phrase": phrase, "member": id(&recovery.member()) },
            "passphrase": {
                "passphrase": "correct horse battery staple", "salt": hex(&[10; 16]), "member": id(&passphrase),
            },
        },
    })
}

/// The golden vectors of `vectors/keyring.json`: what this writes, and what the bytes alone give back.
#[test]
fn golden_vectors() {
    let file: serde_json::Value =
        serde_json::from_str(include_str!("../../../../vectors/keyring.json")).unwrap();
    let made = vectors();
    assert_eq!(file, made, "{made:#}");
    let bytes = |text: &serde_json::Value| -> Vec<u8> {
        let text = text.as_str().unwrap();
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    };
    let statements: Vec<Vec<u8>> = file["statements"].as_array().unwrap().iter().map(bytes).collect();
    let read = Keyring::of(statements.iter().map(Vec::as_slice)).unwrap().unwrap();
    assert_eq!(bytes(&file["head"]), read.head().hash);
    for member in file["members"].as_array().unwrap() {
        let secret: [u8; 32] = bytes(&member["secret"]).try_into().unwrap();
        let unlocked = read.unlock(&MemberSecret::new(Secret::new(secret))).unwrap();
        for (epoch, value) in member["values"].as_object().unwrap() {
            let epoch: u32 = epoch.parse().unwrap();
            assert_eq!(bytes(value), unlocked.values[&epoch].as_bytes());
        }
    }
    // Who was removed has nothing of the last epoch; who came without history nothing of the first ones.
    assert!(file["members"][1]["values"].get("4").is_none());
    assert!(file["members"][2]["values"].get("2").is_none());
    assert_eq!(file["members"][0]["values"].as_object().unwrap().len(), 4);
}
