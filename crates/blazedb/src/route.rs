//! Where a link goes: one address, or the nearest of several.
//!
//! What is measured is the time that a TCP connection takes to be there, which is one round trip and costs the other side
//! nothing but that. Whether the node behind it is the right one, the link finds out when it connects; `core` decides
//! ([`Nearest`]).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use blazedb_core::limits::{PROBE_EVERY_MS, PROBE_GRACE_MS, PROBE_TIMEOUT_MS};
use blazedb_core::topology::{LinkTarget, Nearest};
use blazedb_transport::Endpoint;
use blazedb_transport::ws::round_trip;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;

use crate::link::Place;

/// The addresses of a link, and which is taken.
pub(crate) struct Route {
    nearest: Mutex<Nearest>,
    started: Instant,
    /// Whether all addresses were asked once.
    measured: watch::Sender<bool>,
}

impl Route {
    pub(crate) fn new(place: &Place) -> Self {
        let nearest = match place {
            Place::Remote(LinkTarget::Address(endpoint)) => Nearest::new(vec![endpoint.clone()], None),
            Place::Remote(LinkTarget::Nearest { edges, master }) => {
                Nearest::new(edges.clone(), master.clone())
            }
            Place::Local(..) => Nearest::new(Vec::new(), None),
        };
        let measured = watch::Sender::new(!nearest.is_choice());
        Self { nearest: Mutex::new(nearest), started: Instant::now(), measured }
    }

    /// The address that is taken now.
    pub(crate) fn current(&self) -> Option<Endpoint> {
        self.nearest().current().cloned()
    }

    pub(crate) fn current_text(&self) -> String {
        self.current().map(|endpoint| endpoint.to_string()).unwrap_or_default()
    }

    /// The addresses that there are to choose from, with their latencies.
    pub(crate) fn latencies(&self) -> Vec<(String, Option<f64>)> {
        let nearest = self.nearest();
        let all = nearest.latencies().map(|(endpoint, latency)| (endpoint.to_string(), latency));
        if nearest.is_choice() { all.collect() } else { Vec::new() }
    }

    /// There are other addresses to choose from by now.
    pub(crate) fn lead_to(&self, endpoints: &[Endpoint]) {
        let mut nearest = self.nearest();
        if nearest.endpoints() != endpoints {
            *nearest = Nearest::new(endpoints.to_vec(), None);
        }
    }

    /// Chooses where to connect, as soon as that can be known.
    pub(crate) async fn choose(&self) -> Option<Endpoint> {
        let _ = self.measured.subscribe().wait_for(|measured| *measured).await;
        let now = self.now();
        self.nearest().choose(now).cloned()
    }

    /// Takes note that the address that is taken can't be had any more. Answers whether another one can be tried at once.
    pub(crate) fn failed(&self) -> bool {
        let (now, mut nearest) = (self.now(), self.nearest());
        let current = nearest.current().cloned();
        current.into_iter().for_each(|endpoint| nearest.failed(&endpoint, now));
        nearest.has_untried(now)
    }

    pub(crate) fn has_untried(&self) -> bool {
        let now = self.now();
        self.nearest().has_untried(now)
    }

    /// Whether a session would be better elsewhere.
    pub(crate) fn should_move(&self) -> bool {
        let now = self.now();
        self.nearest().should_move(now)
    }

    /// Waits until the addresses were measured once more. Never, if there is nothing to choose.
    pub(crate) async fn next_round(&self) {
        let endpoints = self.nearest().endpoints().to_vec();
        if endpoints.len() < 2 {
            return std::future::pending().await;
        }
        let first = !*self.measured.borrow();
        if !first {
            tokio::time::sleep(Duration::from_millis(PROBE_EVERY_MS)).await;
        }
        let timeout = Duration::from_millis(PROBE_TIMEOUT_MS);
        let ask = |endpoint: Endpoint| async move {
            let time = round_trip(&endpoint, timeout).await;
            (endpoint, time.map(|time| time.as_secs_f64() * 1_000.0))
        };
        let mut asked: FuturesUnordered<_> = endpoints.into_iter().map(ask).collect();
        let mut enough: Option<tokio::time::Instant> = None;
        loop {
            let late = async {
                match enough.filter(|_| !*self.measured.borrow()) {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                answer = asked.next() => match answer {
                    Some((endpoint, time)) => {
                        self.nearest().measured(&endpoint, time);
                        if time.is_some() && enough.is_none() {
                            enough = Some(tokio::time::Instant::now() + Duration::from_millis(PROBE_GRACE_MS));
                        }
                    }
                    None => break,
                },
                // The link need not wait for the slow ones; they are asked again soon.
                () = late => drop(self.measured.send_replace(true)),
            }
        }
        self.measured.send_replace(true);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn nearest(&self) -> MutexGuard<'_, Nearest> {
        self.nearest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
