//! The door of one session: who comes in, and who must go.
//!
//! Invariant: nobody is admitted before it is known who it is; while the session is open its peer has a place among
//! those that the [`Authenticator`] looks after.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blazedb::{Admitted, Guard, Hello, Refusal, Rights, Role, Timestamp, Token, Verdict};
use blazedb_transport::PublicKey;
use tokio::sync::watch;

use crate::admission::decide;
use crate::auth::{Authenticator, Peer, Place, Stays, TokenRefusal, now_s};
use crate::listener::Served;
use crate::sessions::Whose;

/// The door of one session.
pub(crate) struct Door {
    auth: Arc<Authenticator>,
    key: PublicKey,
    name: String,
    served: Served,
    whose: Whose,
    verdicts: watch::Sender<Verdict>,
    place: Mutex<Option<Place>>,
}

impl Door {
    /// For a client with this key that asks for the database `name`.
    /// Whose session it is goes into `whose`.
    pub(crate) fn new(
        auth: Arc<Authenticator>,
        key: PublicKey,
        name: &str,
        served: Served,
        whose: Whose,
    ) -> Arc<Self> {
        let ((verdicts, _), name) = (watch::channel(Verdict::Stays), name.to_owned());
        Arc::new(Self { auth, key, name, served, whose, verdicts, place: Mutex::new(None) })
    }

    /// The serving side of a session behind this door.
    pub(crate) fn into_role(self: Arc<Self>) -> Role {
        let verdict = self.verdicts.subscribe();
        let door = Arc::clone(&self);
        let renew = move |token| {
            let door = Arc::clone(&door);
            Box::pin(async move { door.renew(token).await }) as blazedb::Decision<_>
        };
        let admit = move |hello| {
            let door = Arc::clone(&self);
            Box::pin(async move { door.admit(hello).await }) as blazedb::Decision<_>
        };
        Role::Server { admit: Box::new(admit), guard: Some(Guard { renew: Box::new(renew), verdict }) }
    }

    /// The database behind it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// How that is served.
    pub(crate) const fn served(&self) -> &Served {
        &self.served
    }

    /// What is decided about the peer later on.
    pub(crate) fn verdicts(&self) -> watch::Receiver<Verdict> {
        self.verdicts.subscribe()
    }

    /// Lets in who asks with this token, and looks after it from now on.
    pub(crate) async fn let_in(self: &Arc<Self>, token: Option<Token>) -> Result<Peer, TokenRefusal> {
        let peer = self.authenticate(token).await?;
        self.verdicts.send_replace(Verdict::Stays);
        let stays = self.stays(&self.served.access.for_user(peer.user.as_deref()));
        *self.place() = Some(self.auth.watch(peer.clone(), self.verdicts.clone(), stays));
        Ok(peer)
    }

    /// What the rule `connect` says as time passes, if that changes.
    fn stays(&self, rights: &Rights) -> Option<Stays> {
        let (rights, name, database) = (rights.clone(), self.name.clone(), self.served.database.clone());
        rights.connects_by_time().then(|| -> Stays {
            Box::new(move || match rights.may_connect(Timestamp::from_millis(database.store().now_ms())) {
                true => Ok(()),
                false => {
                    let reason = format!("database {name}: the access rule `connect` no longer lets you in");
                    Err(Refusal::access(reason))
                }
            })
        })
    }

    async fn admit(self: Arc<Self>, hello: Hello) -> Result<Admitted, Refusal> {
        let refused = |refusal: TokenRefusal| Refusal::identity(format!("database {}: {refusal}", self.name));
        // Who asks for something else on the open session is known, and watched.
        let known = self.place().as_ref().and_then(Place::peer);
        let peer = match known {
            Some(peer) => peer,
            None => self.authenticate(hello.token.clone()).await.map_err(refused)?,
        };
        let admitted = self.decide(peer.clone(), hello).await?;
        let now = Timestamp::from_millis(self.served.database.store().now_ms());
        let rights = self.served.access.for_user(peer.user.as_deref());
        if peer.user.is_some() && (rights.is_public() || rights.may_relay(now)) {
            self.auth.is_member(peer.clone(), &self.name);
        } else {
            self.auth.is_no_member(peer.node, &self.name);
        }
        let user = peer.user.as_ref().map_or("", |user| user.id.as_str());
        // Another user would have another session: it can only be the same again.
        let _ = self.whose.set(user.into());
        let stays = self.stays(&rights);
        *self.place() = Some(self.auth.watch(peer, self.verdicts.clone(), stays));
        Ok(admitted)
    }

    /// What the access rules say. They are asked of the file.
    async fn decide(self: &Arc<Self>, peer: Peer, hello: Hello) -> Result<Admitted, Refusal> {
        let door = Arc::clone(self);
        let work = move || decide(&door.name, &door.served, peer.node, peer.user.as_deref(), &hello);
        let interrupted = |error: tokio::task::JoinError| Err(Refusal::failure(error.to_string()));
        tokio::task::spawn_blocking(work).await.unwrap_or_else(interrupted)
    }

    async fn renew(self: Arc<Self>, token: Token) -> Verdict {
        match self.authenticate(Some(token)).await {
            Err(refusal) => Verdict::Refused(Refusal::identity(format!("database {}: {refusal}", self.name))),
            Ok(peer) => match &*self.place() {
                Some(place) if place.peer().is_some_and(|before| before.user == peer.user) => {
                    place.now_is(peer);
                    Verdict::Stays
                }
                _ => Verdict::Changed,
            },
        }
    }

    async fn authenticate(self: &Arc<Self>, token: Option<Token>) -> Result<Peer, TokenRefusal> {
        let door = Arc::clone(self);
        let work = move || door.auth.authenticate(token.as_ref(), &door.key, now_s());
        tokio::task::spawn_blocking(work).await.unwrap_or(Err(TokenRefusal::Interrupted))
    }

    fn place(&self) -> MutexGuard<'_, Option<Place>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
