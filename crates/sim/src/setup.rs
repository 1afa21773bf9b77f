//! What is simulated: nodes, how each serves and by which rules, and the links between them.

use blazedb_core::Value;
use blazedb_core::access::AccessRules;
use blazedb_core::filter::User;
use blazedb_core::topology::{AccessSpec, EncryptionSpec, FilterText, ServeMode};
use blazedb_core::view::ViewRequest;

use crate::config::{LinkPlan, SimConfig};
use crate::network::Link;
use crate::rng::Rng;

/// A topology to simulate.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// The nodes, by number.
    pub nodes: Vec<NodeSetup>,
    /// The links.
    pub links: Vec<LinkSetup>,
    /// What records may hold beside what the simulator writes to tell its writes apart: fields and values to draw.
    pub attributes: Vec<(String, Vec<Value>)>,
}

/// A node.
#[derive(Clone, Debug)]
pub struct NodeSetup {
    /// How it serves those who connect,
    pub serve: ServeMode,
    /// and by which rules.
    pub access: AccessRules,
    /// Who its user is to others.
    pub user: Option<User>,
    /// It is to have the keys of what is sealed.
    pub member: bool,
}

impl Default for NodeSetup {
    fn default() -> Self {
        let (serve, access) = (ServeMode::Bidirectional, AccessRules::public());
        Self { serve, access, user: None, member: false }
    }
}

/// A link.
#[derive(Clone, Debug)]
pub struct LinkSetup {
    /// Who connects to whom, and which ways.
    pub plan: LinkPlan,
    /// What it is called: checkpoints are kept under its name.
    pub name: String,
    /// Whom the client turns to when the server can't be reached, in this order.
    pub fallbacks: Vec<usize>,
    /// What the client asks to see.
    pub request: ViewRequest,
    /// What is sealed on it.
    pub encryption: EncryptionSpec,
    /// The server decides about what the client writes.
    pub authority: bool,
}

impl LinkSetup {
    /// A link without a policy.
    #[must_use]
    pub fn new(plan: LinkPlan, name: String) -> Self {
        let (fallbacks, request, encryption, authority) = Default::default();
        Self { plan, name, fallbacks, request, encryption, authority }
    }
}

impl From<LinkSetup> for Link {
    fn from(setup: LinkSetup) -> Self {
        let LinkSetup { plan, name, fallbacks, request, encryption, authority } = setup;
        let (removed, conn, due) = (false, None, false);
        Self { plan, name, fallbacks, request, encryption, authority, removed, conn, due }
    }
}

/// Field that records are told apart by, in what a seed draws.
pub(crate) const TEAM: &str = "team";
/// The teams of users and records.
pub(crate) const TEAMS: [&str; 3] = ["a", "b", "c"];

impl Setup {
    /// What a configuration amounts to.
    pub(crate) fn drawn(config: &SimConfig, rng: &mut Rng) -> Self {
        let plans = config.links(rng);
        let mut links: Vec<LinkSetup> =
            plans.iter().enumerate().map(|(no, plan)| LinkSetup::new(*plan, format!("link{no}"))).collect();
        let mut nodes = vec![NodeSetup::default(); config.nodes];
        if config.rules {
            for (node, setup) in nodes.iter_mut().enumerate() {
                setup.user = Some(draw_user(node, rng));
            }
            if let Some(hub) = nodes.first_mut() {
                hub.access = rules();
            }
        }
        if config.sealed {
            nodes.iter_mut().skip(1).for_each(|node| node.member = true);
            links.iter_mut().for_each(|link| link.encryption = EncryptionSpec::e2e_only([TEAM]));
        }
        links.iter_mut().for_each(|link| link.authority = config.authority);
        let teams = TEAMS.map(Value::from).to_vec();
        let attributes = if config.views { vec![(TEAM.to_owned(), teams)] } else { Vec::new() };
        Self { nodes, links, attributes }
    }
}

/// A user of some teams, now and then an administrator.
pub(crate) fn draw_user(node: usize, rng: &mut Rng) -> User {
    let teams = TEAMS.iter().filter(|_| rng.chance(60)).map(|team| (*team).to_owned()).collect();
    let roles = if rng.chance(40) { vec!["admin".to_owned()] } else { Vec::new() };
    User { id: format!("user{node}"), teams, roles, ..User::default() }
}

/// Teams see and write their records; what is of no team, everybody; administrators delete.
fn rules() -> AccessRules {
    let text = |text: &str| Some(FilterText::new(text));
    let spec = AccessSpec {
        public: false,
        connect: text("true"),
        read: text("!has(record.team) || record.team in user.teams"),
        insert: text("!has(record.team) || record.team in user.teams"),
        update: text(
            "(!has(record.team) || record.team in user.teams) && (!has(old.team) || old.team in user.teams)",
        ),
        delete: text("\"admin\" in user.roles"),
        relay: None,
        keys: None,
    };
    AccessRules::compile(&spec).unwrap_or_else(|_| AccessRules::nothing())
}
