//! Keyrings: what they say, and changes of them. Changes are for the local socket only: their answers hold secrets.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use blazedb::{
    Database, Encryption, Keyring, KeyringError, LinkState, LinkStatus, Member, MemberId, MemberKind, Store,
    StoreError, SyncMode,
};
use blazedb_core::keyring::Statement;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use super::error::{ApiCode, ApiError};
use super::records::{Parameters, parameters};
use super::{Api, blocking, from_body};
use crate::node::OpenMode;

/// How long a change waits for the links, where it needs them.
const LINKS_WAIT: Duration = Duration::from_secs(30);
/// How often it is looked whether another node has heard of a change, or the keyring has come.
const LOOK: Duration = Duration::from_millis(100);
/// How long a link that was lost or refused has to try again before it counts as that.
const SECOND_CHANCE: Duration = Duration::from_millis(1_500);

/// How a change is made.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct KeyParameters {
    /// How long it waits for other nodes, in seconds.
    wait: u64,
}

impl Default for KeyParameters {
    fn default() -> Self {
        Self { wait: 20 }
    }
}

/// A change of a keyring.
#[derive(Deserialize)]
#[serde(tag = "act", rename_all = "snake_case", deny_unknown_fields)]
enum KeyAct {
    /// Makes one.
    Create { name: Option<String>, passphrase: Option<String> },
    /// Makes an invitation.
    Invite { name: Option<String>, history: bool },
    /// Joins.
    Join { code: String, name: Option<String> },
    /// Makes a recovery phrase.
    Recovery {},
    /// Begins a new epoch.
    Rotate {},
    /// Removes members.
    Remove { members: Vec<String> },
    /// Seals what the topology file says from now on.
    Rule {},
}

pub(super) async fn show(State(api): State<Api>, Path(db): Path<String>) -> Result<Response, ApiError> {
    let database = api.database(&db)?;
    let policy = policy(&api, &db);
    blocking(move || describe(&database, policy.as_ref())).await.map(|json| axum::Json(json).into_response())
}

pub(super) async fn change(
    State(api): State<Api>,
    Path(db): Path<String>,
    options: Parameters<KeyParameters>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let database = api.database(&db)?;
    let wait = Duration::from_secs(parameters(options)?.wait);
    let act: KeyAct = from_body(&body)?;
    let policy = policy(&api, &db).unwrap_or_default();
    let store = database.store().clone();
    let (joins, sends_anew) = (matches!(act, KeyAct::Join { .. }), matches!(act, KeyAct::Rule {}));
    let creates = matches!(act, KeyAct::Create { .. });
    if matches!(act, KeyAct::Rule {}) {
        change_rule(&api, &database, policy.clone()).await?;
    }
    if api.mode != OpenMode::FilesOnly && matches!(act, KeyAct::Remove { .. }) {
        // Whom the others let in since may be meant, or would be left in.
        caught_up(&api, &db).await;
    }
    let node_name = api.node.spec().node.name.clone();
    let gone = to_remove(&store, &act)?;
    let mut answer = blocking(move || carry_out(&store, act, policy, &node_name)).await?;
    // What was said is for the others as well; and who joins needs the keyring.
    let done = match api.mode {
        OpenMode::FilesOnly => false,
        _ if joins => joined(&api, &db, database.store(), wait).await? && caught_up(&api, &db).await,
        _ if sends_anew => caught_up(&api, &db).await,
        _ if creates => settled(&api, &db, database.store(), wait).await?,
        _ => heard(&api, &db, database.store(), wait).await,
    };
    let codes_left = removed(database.store(), &gone)?;
    if let Some(object) = answer.as_object_mut() {
        codes_left.into_iter().for_each(|left| drop(object.insert("codes_left".to_owned(), left.into())));
        object.insert("pending".to_owned(), (!done).into());
        if creates {
            let settled = database.store().keyring().is_none_or(|ring| ring.unsettled().is_none());
            object.insert("settled".to_owned(), settled.into());
        }
        if joins {
            object.insert("joined".to_owned(), is_member(database.store()).into());
            object.insert("waits".to_owned(), database.store().waits_to_join()?.into());
        }
        if !done && api.mode != OpenMode::FilesOnly && !object.contains_key("problem") {
            let error = links_of(&api, &db).into_iter().find_map(|link| link.error);
            object.insert("problem".to_owned(), error.map(|error| error.message).into());
        }
    }
    Ok(axum::Json(answer).into_response())
}

/// Whom a change removes.
fn to_remove(store: &Store, act: &KeyAct) -> Result<Vec<MemberId>, ApiError> {
    let KeyAct::Remove { members } = act else { return Ok(Vec::new()) };
    let ring = store.keyring();
    members.iter().map(|text| find_member(&ring, text)).collect()
}

/// Whether these members are gone; and how many phrases are left that somebody may join with again.
fn removed(store: &Store, gone: &[MemberId]) -> Result<Option<usize>, ApiError> {
    let Some(ring) = store.keyring().filter(|_| !gone.is_empty()) else { return Ok(None) };
    if gone.iter().any(|id| ring.member(id).is_some()) {
        // Others said something at the same time.
        let problem = "the removal was overtaken by another change of the keyring";
        let hint = "look at `blazedb key members`, and remove again";
        return Err(ApiError::new(ApiCode::Conflict, problem).with_hint(hint));
    }
    let stays = |member: &Member| matches!(member.kind, MemberKind::Recovery | MemberKind::Passphrase);
    Ok(Some(ring.members().filter(|(_, member)| stays(member)).count()))
}

/// Makes the change in the file, and answers what only the asker is told.
fn carry_out(store: &Store, act: KeyAct, policy: Encryption, node_name: &str) -> Result<Json, ApiError> {
    let name = |name: Option<String>| name.unwrap_or_else(|| node_name.to_owned());
    Ok(match act {
        KeyAct::Create { name: called, passphrase } => {
            // What others may have in readable form has to be sent anew, and to go there: as when the rule changes.
            let seals_later = policy != Encryption::SmartProxy && store.has_met_others()?;
            let rule = if seals_later { Encryption::SmartProxy } else { policy.clone() };
            store.create_keyring(&name(called), rule, passphrase.as_deref())?;
            if seals_later {
                store.set_seal_rule(policy)?;
            }
            json!({})
        }
        KeyAct::Invite { name: called, history } => {
            let called = called.unwrap_or_else(|| "invited".to_owned());
            json!({ "code": store.invite_member(&called, history)? })
        }
        KeyAct::Join { code, name: called } => match store.join_keyring(&code, &name(called)) {
            // Said as if the link had brought it, which may come first.
            Err(StoreError::Keyring(error @ KeyringError::SpentCode)) => {
                json!({ "joined": false, "problem": error.to_string() })
            }
            done => json!({ "joined": done? }),
        },
        KeyAct::Recovery {} => json!({ "phrase": store.make_recovery_phrase()? }),
        KeyAct::Rotate {} => {
            store.rotate_keys()?;
            json!({})
        }
        KeyAct::Remove { members } => {
            let ring = store.keyring();
            let gone: Result<Vec<_>, _> = members.iter().map(|text| find_member(&ring, text)).collect();
            store.remove_members(&gone?)?;
            json!({})
        }
        KeyAct::Rule {} => json!({}),
    })
}

fn is_member(store: &Store) -> bool {
    store.sealer().is_some_and(|sealer| sealer.is_active())
}

fn links_of(api: &Api, db: &str) -> Vec<LinkStatus> {
    let links = api.node.links().into_iter().map(|(_, link)| link);
    links.filter(|link| link.database == db && link.mode != SyncMode::LocalOnly).collect()
}

/// Waits until another node has heard of what was said here: then it is there for whoever asks. Not for longer than
/// `wait`, nor once it is clear that none is reached; not at all if there is none.
async fn heard(api: &Api, db: &str, store: &Store, wait: Duration) -> bool {
    api.node.topology().retry_now();
    let started = Instant::now();
    loop {
        let links = links_of(api, db);
        if links.is_empty() || store.keyring_is_agreed() {
            return true;
        }
        let away = |link: &LinkStatus| matches!(link.state, LinkState::Offline | LinkState::Refused);
        let hopeless = started.elapsed() >= SECOND_CHANCE && links.iter().all(away);
        if hopeless || started.elapsed() >= wait {
            return false;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until a keyring that is new here has been heard of, and all that was there before has been sent anew in sealed form, and
/// says so. If no other node is reached, `key rule` does it later.
async fn settled(api: &Api, db: &str, store: &Store, wait: Duration) -> Result<bool, ApiError> {
    let heard = heard(api, db, store, wait).await;
    if store.keyring().is_none_or(|ring| ring.unsettled().is_none()) {
        return Ok(heard);
    }
    if !heard || !caught_up(api, db).await {
        return Ok(false);
    }
    let settling = store.clone();
    blocking(move || Ok(settling.settle_seal_rule()?)).await?;
    Ok(self::heard(api, db, store, wait).await)
}

/// Waits until this device has joined: until the keyring, and in it the invitation, has come. Not for longer than `wait`, nor
/// once it is clear that the code won't do.
async fn joined(api: &Api, db: &str, store: &Store, wait: Duration) -> Result<bool, ApiError> {
    let started = Instant::now();
    while !is_member(store) {
        if started.elapsed() >= wait || !store.waits_to_join()? || links_of(api, db).iter().any(rules_out) {
            return Ok(is_member(store));
        }
        api.node.topology().retry_now();
        tokio::time::sleep(LOOK).await;
    }
    Ok(true)
}

/// Whether what came over a link shows that the code won't do, whatever comes later.
fn rules_out(link: &LinkStatus) -> bool {
    let for_good = [KeyringError::ForeignRoot, KeyringError::SpentCode].map(|error| error.to_string());
    let told = link.error.as_ref().map_or("", |error| &error.message);
    for_good.iter().any(|said| told.contains(said))
}

/// Sends everything anew in its new form, and then says so.
async fn change_rule(api: &Api, database: &Database, rule: Encryption) -> Result<(), ApiError> {
    if api.mode == OpenMode::FilesOnly {
        return Err(ApiError::new(ApiCode::Locked, "another command has databases of this node open")
            .with_hint("wait for it to end, or stop it"));
    }
    let store = database.store().clone();
    let ring = store.keyring();
    let done = ring.as_ref().is_some_and(|ring| *ring.rule() == rule && ring.unsettled().is_none());
    if done {
        return Ok(());
    }
    if ring.is_none_or(|ring| *ring.rule() != rule) {
        let store = store.clone();
        blocking(move || Ok(store.set_seal_rule(rule)?)).await?;
    }
    api.node.topology().retry_now();
    let behind = api.node.sync(LINKS_WAIT).await;
    if let Some(link) = behind.into_iter().next() {
        let why = link.error.map_or_else(|| "not everything is sent yet".to_owned(), |error| error.message);
        return Err(ApiError::new(
            ApiCode::Failed,
            format!("what is sealed has changed, and the former form is not dropped yet: {why}"),
        )
        .with_hint("run the command again once the hub is reached"));
    }
    blocking(move || Ok(store.settle_seal_rule()?)).await
}

/// Waits until the links of a database have nothing more to do.
async fn caught_up(api: &Api, db: &str) -> bool {
    api.node.topology().retry_now();
    let behind = api.node.sync(LINKS_WAIT).await;
    behind.iter().all(|link| link.database != db)
}

fn policy(api: &Api, db: &str) -> Option<Encryption> {
    let whole = api.node.spec();
    let spec = whole.databases.iter().find(|(name, _)| name.as_str() == db)?.1;
    Some(spec.sync.policy.encryption.clone())
}

/// A member by its id, the start of its id, or its name.
fn find_member(keyring: &Option<std::sync::Arc<Keyring>>, text: &str) -> Result<MemberId, ApiError> {
    let members: Vec<_> = keyring.iter().flat_map(|ring| ring.members()).collect();
    let fits = members
        .iter()
        .filter(|(id, member)| member.name == text || (text.len() >= 4 && id.to_string().starts_with(text)));
    match fits.collect::<Vec<_>>()[..] {
        [(id, _)] => Ok(**id),
        [] => Err(ApiError::new(ApiCode::NotFound, format!("no member {text:?}"))
            .with_hint("`blazedb key members` lists them")),
        _ => Err(ApiError::new(ApiCode::Usage, format!("several members are called {text:?}: give the id"))),
    }
}

fn describe(database: &Database, policy: Option<&Encryption>) -> Result<Json, ApiError> {
    let store = database.store();
    let Some(keyring) = store.keyring() else {
        return Ok(json!({ "keyring": Json::Null, "waits_to_join": store.waits_to_join()? }));
    };
    let own = store.member_id();
    let members: Vec<Json> = keyring
        .members()
        .map(|(id, member)| {
            json!({
                "id": id.to_string(), "name": member.name, "kind": member.kind.as_str(),
                "history": member.history, "this_device": own == Some(*id),
            })
        })
        .collect();
    let sealer = store.sealer();
    let epochs: Vec<u32> = sealer.iter().flat_map(|sealer| sealer.keys().epochs()).collect();
    let unopened: Vec<Json> = store
        .unopened()?
        .into_iter()
        .map(|record| json!({ "id": record.id.to_string(), "reason": record.reason, "at": record.at_ms }))
        .collect();
    Ok(json!({
        "keyring": hex(keyring.database()),
        "fingerprint": hex(&keyring.root()),
        "epoch": keyring.epoch(),
        "epochs_held": epochs,
        "statements": keyring.head().count,
        "encryption": encryption(keyring.rule()),
        "settled": keyring.unsettled().is_none(),
        "lost": store.lost_keyring_change()?,
        "member": own.filter(|id| keyring.member(id).is_some()).map(|id| id.to_string()),
        "members": members,
        "unopened": unopened,
        "log": said(&keyring),
        "ready": policy.map(|policy| store.ready_for(policy).err().unwrap_or_else(|| "yes".to_owned())),
    }))
}

/// Who said what, and when by their own clocks.
fn said(keyring: &Keyring) -> Vec<Json> {
    let statements = keyring.statements(0).iter();
    let known = statements.filter_map(|statement| Some(Statement::decode(statement).ok()?.0));
    known
        .map(|statement| {
            json!({ "act": statement.act.as_str(), "by": statement.author.to_string(), "at": statement.at_ms })
        })
        .collect()
}

fn encryption(rule: &Encryption) -> Json {
    match rule {
        Encryption::SmartProxy => json!("smart-proxy"),
        Encryption::E2eOnly { routing_fields } => json!({ "e2e-only": { "routing_fields": routing_fields } }),
        Encryption::Seal(fields) => json!({ "seal": fields }),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
