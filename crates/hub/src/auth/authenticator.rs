//! `[auth]` at work: which issuers' keys count, what is revoked, whether somebody without a token is let in.
//!
//! Invariants: a bad token is never worth as much as none; keys and lists that can't be read let nobody in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use blazedb::{NodeId, Token, User, Verdict};
use blazedb_core::limits::MAX_FOUND_PEERS;
use blazedb_core::topology::announce::Announcement;
use blazedb_core::topology::{AuthSpec, IssuerKey as KeySource};
use blazedb_transport::{FileProblem, PublicKey, WatchedFile};
use tokio::sync::watch;

use super::inspect::Inspected;
use super::issue::{IssueError, OWN_ISSUER, OwnIssuer};
use super::keys::IssuerKey;
use super::live::{Live, Place, Stays};
use super::peer::Peer;
use super::refusal::{TokenRefusal, cut};
use super::revoked::RevokedList;
use super::verify::{TrustedIssuer, Verified, verify};

/// How often open sessions are looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// `[auth]` can't be put to work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// A key file, a key set or the list of what is revoked.
    #[error("[auth]: {0}")]
    File(#[from] FileProblem),
    /// The node's own issuer.
    #[error("[auth] issuer \"{OWN_ISSUER}\": {0}")]
    Own(#[from] IssueError),
    /// Two entries for one issuer.
    #[error("[auth] issuers: {0:?} is there twice; several keys of one issuer go into one jwks_file")]
    Twice(String),
}

struct Issuer {
    keys: WatchedFile<Vec<IssuerKey>>,
    audience: Option<String>,
    /// The key was put here in a file of its own. (A key set is published, as a rule.)
    own_file: bool,
}

impl Issuer {
    /// Its public keys, if they lie here in a file of their own.
    fn public(&self) -> Vec<Vec<u8>> {
        let keys = self.keys.current().ok().filter(|_| self.own_file);
        keys.iter().flat_map(|keys| keys.iter().map(|key| key.public.clone())).collect()
    }
}

/// Decides who a peer is.
pub struct Authenticator {
    issuers: BTreeMap<String, Issuer>,
    /// Keys that count for any issuer.
    shared: Option<WatchedFile<Vec<IssuerKey>>>,
    revoked: WatchedFile<RevokedList>,
    anonymous: bool,
    live: Live,
    members: Mutex<BTreeMap<(NodeId, String), Peer>>,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator").field("anonymous", &self.anonymous).finish_non_exhaustive()
    }
}

impl Authenticator {
    /// What `spec` asks for, its files relative to `base`; `data` is the directory of the node's own files. A node that
    /// trusts its own issuer has one afterwards.
    ///
    /// # Errors
    /// [`AuthError`]: every file has to be usable now.
    pub fn new(spec: &AuthSpec, base: &Path, data: &Path) -> Result<Self, AuthError> {
        let mut issuers = BTreeMap::new();
        for issuer in &spec.issuers {
            let keys = match &issuer.key {
                KeySource::KeyFile(file) => {
                    let path = base.join(file);
                    if issuer.name == OWN_ISSUER && !path.exists() {
                        OwnIssuer::load_or_create(data)?.publish(&path)?;
                    }
                    WatchedFile::new(path, one_key)
                }
                KeySource::JwksFile(file) => WatchedFile::new(base.join(file), key_set),
            };
            keys.current()?;
            let own_file = matches!(issuer.key, KeySource::KeyFile(_));
            let entry = Issuer { keys, audience: issuer.audience.clone(), own_file };
            if issuers.insert(issuer.name.clone(), entry).is_some() {
                return Err(AuthError::Twice(issuer.name.clone()));
            }
        }
        let shared = spec.jwks_file.as_ref().map(|file| WatchedFile::new(base.join(file), key_set));
        shared.as_ref().map(WatchedFile::current).transpose()?;
        let revoked =
            WatchedFile::optional(revoked_file(spec, base, data), RevokedList::parse, RevokedList::default);
        revoked.current()?;
        Ok(Self {
            issuers,
            shared,
            revoked,
            anonymous: spec.anonymous,
            live: Live::default(),
            members: Mutex::default(),
        })
    }

    /// Lets everybody in, as nobody in particular: for nodes on one machine that belong together.
    #[must_use]
    pub fn anonymous() -> Self {
        Self { anonymous: true, ..Self::nobody() }
    }

    /// Lets nobody in.
    #[must_use]
    pub fn nobody() -> Self {
        Self {
            issuers: BTreeMap::new(),
            shared: None,
            revoked: WatchedFile::optional(PathBuf::new(), RevokedList::parse, RevokedList::default),
            anonymous: false,
            live: Live::default(),
            members: Mutex::default(),
        }
    }

    /// Whether tokens of anybody are accepted.
    #[must_use]
    pub fn has_issuers(&self) -> bool {
        !self.issuers.is_empty() || self.shared.is_some()
    }

    /// Who the node with `key` is that presents `token` at `now_s` (seconds since the Unix epoch). Looks at files:
    /// not on a thread that others wait for.
    ///
    /// # Errors
    /// [`TokenRefusal`].
    pub fn authenticate(
        &self,
        token: Option<&Token>,
        key: &PublicKey,
        now_s: u64,
    ) -> Result<Peer, TokenRefusal> {
        let peer = match token {
            Some(token) => {
                let verified = verify(token.as_str(), |issuer| self.keys_of(issuer), Some(key), now_s)?;
                Peer::with_token(key, verified)
            }
            None if self.anonymous => Peer::anonymous(key),
            None => return Err(TokenRefusal::Missing),
        };
        self.revoked()?.check(&peer)?;
        Ok(peer)
    }

    /// Who somebody is that presents `token` without a node: in a browser. A token that is bound to a node's key won't
    /// do. Looks at files, as [`Self::authenticate`] does.
    ///
    /// # Errors
    /// [`TokenRefusal`].
    pub fn authenticate_user(&self, token: &str, now_s: u64) -> Result<Verified, TokenRefusal> {
        let verified = verify(token, |issuer| self.keys_of(issuer), None, now_s)?;
        self.revoked()?.check_user(Some(&verified.user.id), verified.id.as_deref())?;
        Ok(verified)
    }

    fn revoked(&self) -> Result<Arc<RevokedList>, TokenRefusal> {
        self.revoked.current().map_err(|error| {
            tracing::error!(%error, "the list of what is revoked can't be read: nobody is let in");
            TokenRefusal::ListUnreadable
        })
    }

    /// Takes note of a peer that was let in to a database and may bring there whatever it has from others.
    pub(crate) fn is_member(&self, peer: Peer, database: &str) {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        if members.len() < MAX_FOUND_PEERS || members.contains_key(&(peer.node, database.to_owned())) {
            members.insert((peer.node, database.to_owned()), peer);
        }
    }

    /// A peer that was let in to a database, and may not bring there what it has from others, or not any more.
    pub(crate) fn is_no_member(&self, node: NodeId, database: &str) {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.remove(&(node, database.to_owned()));
    }

    /// The user of a node that nobody has named, if it is known who that is: everybody is let in here (then the user is nobody in
    /// particular, unless it came with a token), or it came here itself, with a token that still counts, and was taken as a
    /// member.
    pub(crate) fn member(&self, node: NodeId, database: &str) -> Option<Option<Arc<User>>> {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let member = members.get(&(node, database.to_owned())).cloned();
        drop(members);
        let counts = |member: &Peer| {
            let lasts = member.expires.is_some_and(|at| at > now_s());
            lasts && self.revoked.current().is_ok_and(|list| list.check(member).is_ok())
        };
        match member.filter(counts) {
            Some(member) => Some(member.user),
            None => self.anonymous.then_some(None),
        }
    }

    /// The public keys of issuers that lie here in files of their own.
    pub(crate) fn issuers(&self) -> Vec<Vec<u8>> {
        self.issuers.values().flat_map(Issuer::public).collect()
    }

    /// Whether a token may be shown to a node of which nothing is known but what it says on the network: whoever sees it can't use
    /// it, since it is bound to `own` key, or has proven to know the key of its issuer.
    pub(crate) fn may_show(&self, token: &Token, own: &[u8; 65], to: &Announcement) -> bool {
        let Ok(inspected) = Inspected::read(token.as_str()) else { return false };
        let issuer = inspected.claims.get("iss").and_then(serde_json::Value::as_str);
        let known = || issuer.and_then(|issuer| self.issuers.get(issuer)).map(Issuer::public);
        inspected.is_bound_to(own) || known().is_some_and(|keys| keys.iter().any(|key| to.proves(key)))
    }

    /// Keeps an eye on a peer as long as its place lives, and says when it must go.
    #[must_use]
    pub(crate) fn watch(&self, peer: Peer, verdicts: watch::Sender<Verdict>, stays: Option<Stays>) -> Place {
        self.live.enter(peer, verdicts, stays)
    }

    /// Looks at the peers whose sessions are open, once a second, for ever.
    pub async fn keep_watch(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            let auth = Arc::clone(&self);
            let look = move || auth.live.sweep(auth.revoked.current().ok().as_deref(), now_s());
            let _ = tokio::task::spawn_blocking(look).await;
        }
    }

    fn keys_of(&self, name: &str) -> Result<TrustedIssuer, TokenRefusal> {
        let unreadable = |error: FileProblem| {
            tracing::error!(%error, issuer = name, "the keys of an issuer can't be read: its tokens are refused");
            TokenRefusal::KeysUnreadable(cut(name))
        };
        let mut trusted = TrustedIssuer::default();
        if let Some(issuer) = self.issuers.get(name) {
            trusted.keys.extend(issuer.keys.current().map_err(unreadable)?.iter().cloned());
            trusted.audience.clone_from(&issuer.audience);
        }
        if let Some(shared) = &self.shared {
            trusted.keys.extend(shared.current().map_err(unreadable)?.iter().cloned());
        }
        if trusted.keys.is_empty() { Err(TokenRefusal::UnknownIssuer(cut(name))) } else { Ok(trusted) }
    }
}

/// Where the list of what is revoked is: as declared, or `revoked` among the node's files.
#[must_use]
pub fn revoked_file(spec: &AuthSpec, base: &Path, data: &Path) -> PathBuf {
    spec.revoked_file.as_ref().map_or_else(|| data.join("revoked"), |file| base.join(file))
}

/// The issuer of this node, the name under which it issues, and whether this node itself accepts its tokens.
///
/// # Errors
/// [`IssueError`].
pub fn own_issuer(
    spec: &AuthSpec,
    base: &Path,
    data: &Path,
) -> Result<(OwnIssuer, String, bool), IssueError> {
    let own = OwnIssuer::load_or_create(data)?;
    let holds_own = |path: &Path| std::fs::read_to_string(path).is_ok_and(|text| text == own.public_pem());
    for issuer in &spec.issuers {
        let KeySource::KeyFile(file) = &issuer.key else { continue };
        let path = base.join(file);
        if issuer.name == OWN_ISSUER {
            own.publish(&path)?;
        }
        if holds_own(&path) {
            return Ok((own, issuer.name.clone(), true));
        }
    }
    Ok((own, OWN_ISSUER.to_owned(), false))
}

/// Seconds since the Unix epoch, by this node's clock.
pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn one_key(text: &str) -> Result<Vec<IssuerKey>, String> {
    IssuerKey::from_file(text).map(|key| vec![key]).map_err(|error| error.to_string())
}

fn key_set(text: &str) -> Result<Vec<IssuerKey>, String> {
    IssuerKey::from_set(text).map_err(|error| error.to_string())
}
