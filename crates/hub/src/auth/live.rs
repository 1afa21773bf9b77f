//! The peers whose sessions are open: who of them must go because a token is over, or something is revoked.
//!
//! Invariant: a peer is looked at once a second for as long as its [`Place`] lives, and told at most one verdict
//! that ends its session.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blazedb::{Refusal, Verdict};
use tokio::sync::watch;

use super::peer::Peer;
use super::refusal::TokenRefusal;
use super::revoked::RevokedList;

/// Whether a peer may stay, as time passes.
pub(crate) type Stays = Box<dyn Fn() -> Result<(), Refusal> + Send>;

struct Guest {
    peer: Peer,
    /// What an access rule over time says; `None`: none does.
    stays: Option<Stays>,
    verdict: watch::Sender<Verdict>,
}

#[derive(Default)]
struct Guests {
    next: u64,
    by_place: HashMap<u64, Guest>,
}

/// The peers whose sessions are open.
#[derive(Clone, Default)]
pub(super) struct Live(Arc<Mutex<Guests>>);

/// A peer's place among them; given up when it is dropped.
pub struct Place {
    live: Live,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.live.guests().by_place.remove(&self.number);
    }
}

impl Place {
    /// Who is looked at here from now on.
    pub fn now_is(&self, peer: Peer) {
        if let Some(guest) = self.live.guests().by_place.get_mut(&self.number) {
            guest.peer = peer;
        }
    }

    /// Who is looked at here.
    #[must_use]
    pub fn peer(&self) -> Option<Peer> {
        self.live.guests().by_place.get(&self.number).map(|guest| guest.peer.clone())
    }
}

impl Live {
    /// A place for a peer, and where to say what is decided about it later on.
    pub(super) fn enter(&self, peer: Peer, verdict: watch::Sender<Verdict>, stays: Option<Stays>) -> Place {
        let mut guests = self.guests();
        guests.next += 1;
        let number = guests.next;
        guests.by_place.insert(number, Guest { peer, stays, verdict });
        Place { live: self.clone(), number }
    }

    /// Sends away whoever may not stay at `now_s`. Without a list nobody is sent away for what it said.
    pub(super) fn sweep(&self, revoked: Option<&RevokedList>, now_s: u64) {
        for guest in self.guests().by_place.values() {
            let over = guest.peer.expires.filter(|at| *at <= now_s).map(TokenRefusal::Expired);
            let listed = || revoked.and_then(|list| list.check(&guest.peer).err());
            let identity = over.or_else(listed).map(|refusal| Refusal::identity(refusal.to_string()));
            let ruled = || guest.stays.as_ref().and_then(|stays| stays().err());
            if let Some(refusal) = identity.or_else(ruled) {
                guest.verdict.send_if_modified(|verdict| {
                    let first = *verdict == Verdict::Stays;
                    if first {
                        *verdict = Verdict::Refused(refusal);
                    }
                    first
                });
            }
        }
    }

    fn guests(&self) -> MutexGuard<'_, Guests> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
