//! `blazedb token`: the node's own issuer, invitations, and what a token says.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use blazedb::{Endpoint, Identity, Token};
use blazedb_core::topology::{TopologySpec, parse_duration};
use blazedb_hub::auth::{
    Binding, Inspected, Invitation, InvitationError, IssueError, Revocation, TokenRequest, accept_invitation,
    invite, own_issuer, revoked_file, shown_time, store_token,
};
use blazedb_hub::{Node, NodeError, TOKEN_FILE};
use clap::{Args, Subcommand};
use serde_json::{Map, Value as Json, json};

use crate::args::GlobalArgs;
use crate::load::load;
use crate::output::{CliError, ErrorCode, Output};

/// The longest token file that is read, in bytes.
const MAX_TOKEN_FILE: u64 = 64 << 10;

/// Arguments of `token`.
#[derive(Args, Debug)]
pub struct TokenArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: TokenCommand,
}

/// What can be done with tokens.
#[derive(Subcommand, Debug)]
pub enum TokenCommand {
    /// Print a token that this node's own issuer signs
    Issue(IssueArgs),
    /// Show what a token says
    Show {
        /// Token file, or - for stdin; the node's own by default
        #[arg(value_name = "FILE")]
        path: Option<PathBuf>,
    },
    /// Print a one-time code with which a device gets a token of its own
    Invite(InviteArgs),
    /// Redeem a code at the hub that invited, and keep the token
    Accept {
        /// The code
        code: String,
    },
    /// No longer accept a token, a user or a node; open sessions end
    Revoke(RevokeArgs),
}

/// What a token is to say.
#[derive(Args, Debug)]
pub struct UserArgs {
    /// The user
    #[arg(long)]
    pub user: String,
    /// Teams of the user
    #[arg(long = "team", value_name = "TEAM", num_args = 1.., value_delimiter = ',')]
    pub teams: Vec<String>,
    /// Roles of the user
    #[arg(long = "role", value_name = "ROLE", num_args = 1.., value_delimiter = ',')]
    pub roles: Vec<String>,
    /// A further claim; a value that is JSON is taken as such, any other as text. May be repeated
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = parse_claim)]
    pub claims: Vec<(String, Json)>,
    /// How long the token is good
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = parse_ttl)]
    pub ttl: Duration,
}

/// Arguments of `token issue`.
#[derive(Args, Debug)]
pub struct IssueArgs {
    /// Who.
    #[command(flatten)]
    pub user: UserArgs,
    /// Good for the node with this key only: its fingerprint, or the thumbprint of its JWK
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    pub node: Option<Binding>,
}

/// Arguments of `token invite`.
#[derive(Args, Debug)]
pub struct InviteArgs {
    /// Who.
    #[command(flatten)]
    pub user: UserArgs,
    /// How long the code may be used
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = parse_ttl)]
    pub valid: Duration,
    /// Where devices reach this node; `listen` by default
    #[arg(long)]
    pub url: Option<Endpoint>,
}

/// Arguments of `token revoke`.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct RevokeArgs {
    /// The token's id (`jti`; `token show` prints it)
    pub id: Option<String>,
    /// Every token of this user, also those that are yet to come
    #[arg(long)]
    pub user: Option<String>,
    /// The node with this fingerprint, whoever uses it
    #[arg(long, value_name = "KEY")]
    pub node: Option<String>,
}

fn parse_claim(text: &str) -> Result<(String, Json), String> {
    let (name, value) =
        text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| value.into())))
}

fn parse_ttl(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(ttl) if ttl.as_secs() == 0 => Err("less than a second".to_owned()),
        parsed => parsed.map_err(|error| error.to_string()),
    }
}

impl UserArgs {
    fn request(&self) -> TokenRequest {
        TokenRequest {
            user: self.user.clone(),
            teams: self.teams.clone(),
            roles: self.roles.clone(),
            claims: Map::from_iter(self.claims.clone()),
            ttl_s: self.ttl.as_secs(),
        }
    }
}

/// The node of a topology file, as far as tokens go.
struct Place {
    spec: TopologySpec,
    base: PathBuf,
    data: PathBuf,
}

impl Place {
    fn of(global: &GlobalArgs) -> Result<Self, CliError> {
        let spec = load(global)?;
        let base = global.file.parent().unwrap_or(Path::new(".")).to_owned();
        let data = Node::data_dir(&spec, &global.file);
        std::fs::create_dir_all(&data).map_err(|error| CliError::io(data.display(), &error))?;
        Ok(Self { spec, base, data })
    }

    fn token_file(&self) -> PathBuf {
        let named = self.spec.node.token_file.as_ref();
        named.map_or_else(|| self.data.join(TOKEN_FILE), |file| self.base.join(file))
    }

    fn identity(&self) -> Result<Identity, CliError> {
        Ok(Identity::load_or_create(&self.data.join("identity.key")).map_err(NodeError::from)?)
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// `token`.
///
/// # Errors
/// What keeps the token from being issued, redeemed or read.
pub async fn run(args: &TokenArgs, global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    match &args.command {
        TokenCommand::Issue(args) => issue(args, &Place::of(global)?, output),
        TokenCommand::Show { path } => show(path.as_deref(), global, output),
        TokenCommand::Invite(args) => invite_device(args, &Place::of(global)?, output),
        TokenCommand::Accept { code } => accept(code, &Place::of(global)?, output).await,
        TokenCommand::Revoke(args) => revoke(args, &Place::of(global)?, output),
    }
}

fn issue(args: &IssueArgs, place: &Place, output: &mut Output) -> Result<(), CliError> {
    let (issuer, name, accepted) =
        own_issuer(&place.spec.auth, &place.base, &place.data).map_err(issue_failed)?;
    let token =
        issuer.issue(&name, &args.user.request(), args.node.as_ref(), now_s()).map_err(issue_failed)?;
    if !accepted {
        output.note(not_accepted(place));
    }
    if output.json() {
        let claims = Inspected::read(token.as_str()).map_err(|error| failed(&error))?.claims;
        return output
            .line(json!({ "token": token.as_str(), "id": claims.get("jti"), "expires": claims.get("exp") }));
    }
    output.line(token.as_str())
}

fn not_accepted(place: &Place) -> String {
    let file = place.data.join("issuer.pub");
    format!(
        "this node itself does not accept it: add issuers = [{{ name = \"self\", key_file = {:?} }}] to [auth]",
        file.display().to_string()
    )
}

fn invite_device(args: &InviteArgs, place: &Place, output: &mut Output) -> Result<(), CliError> {
    let (_, _, accepted) = own_issuer(&place.spec.auth, &place.base, &place.data).map_err(issue_failed)?;
    let hub = args.url.clone().map_or_else(|| own_address(&place.spec), Ok)?;
    let key = place.identity()?.fingerprint();
    let expires = now_s().saturating_add(args.valid.as_secs());
    let made = invite(&place.data, hub, key, &args.user.request(), expires).map_err(invitation_failed)?;
    if !accepted {
        output.note(not_accepted(place));
    }
    if output.json() {
        return output.line(json!({ "code": made.to_string(), "expires": expires }));
    }
    output.line(&made)?;
    output.note(format_args!(
        "good once, until {}, at {}: on the device, `blazedb token accept CODE`",
        shown_time(expires),
        made.hub
    ));
    Ok(())
}

/// The address under which others reach this node, if its own one says it.
fn own_address(spec: &TopologySpec) -> Result<Endpoint, CliError> {
    let unknown = |what: &str| {
        CliError::new(ErrorCode::Usage, format!("where devices reach this node is not known: {what}"))
            .with_hint("say it with --url ws://HOST:PORT")
    };
    let listen = spec.node.listen.as_ref().ok_or_else(|| unknown("[node] has no `listen`"))?;
    let any = listen.host().parse().is_ok_and(|ip: std::net::IpAddr| ip.is_unspecified());
    if any || listen.port() == 0 {
        return Err(unknown(&format!("it listens on {listen}")));
    }
    let scheme = if spec.node.tls.is_some() { "wss" } else { "ws" };
    format!("{scheme}://{listen}").parse().map_err(|_| unknown("its own address is no URL"))
}

async fn accept(code: &str, place: &Place, output: &mut Output) -> Result<(), CliError> {
    let invitation: Invitation = code.parse().map_err(invitation_failed)?;
    let token = accept_invitation(&invitation, &place.identity()?).await.map_err(invitation_failed)?;
    let path = place.token_file();
    store_token(&path, &token).map_err(|error| CliError::io(path.display(), &error))?;
    if output.json() {
        return output.line(json!({ "file": path.display().to_string() }));
    }
    output.note(format_args!("the token is in {}; `blazedb token show` tells what it says", path.display()));
    Ok(())
}

fn revoke(args: &RevokeArgs, place: &Place, output: &mut Output) -> Result<(), CliError> {
    let line = match (&args.id, &args.user, &args.node) {
        (_, Some(user), _) => format!("sub:{user}"),
        (_, _, Some(node)) if node.starts_with("blz1-") => node.clone(),
        (_, _, Some(node)) => {
            return Err(CliError::new(
                ErrorCode::Usage,
                format!("{node:?} is no fingerprint of a node's key"),
            ));
        }
        (id, None, None) => id.clone().unwrap_or_default(),
    };
    let usage = |error: &dyn std::fmt::Display| CliError::new(ErrorCode::Usage, error.to_string());
    let revocation: Revocation = line.parse().map_err(|error| usage(&error))?;
    let path = revoked_file(&place.spec.auth, &place.base, &place.data);
    let added = revocation.append_to(&path).map_err(|error| CliError::io(path.display(), &error))?;
    if output.json() {
        return output.line(json!({ "revoked": revocation.to_string(), "file": path.display().to_string() }));
    }
    let word = if added { "added to" } else { "already in" };
    output
        .note(format_args!("{revocation}: {word} {}; a running node sees it within seconds", path.display()));
    Ok(())
}

fn show(path: Option<&Path>, global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let place = Place::of(global);
    let text = match path {
        Some(path) if path == Path::new("-") => read_token("stdin", std::io::stdin().lock())?,
        path => {
            let path = match path {
                Some(path) => path.to_owned(),
                None => place.as_ref().map_err(Clone::clone)?.token_file(),
            };
            let file = std::fs::File::open(&path).map_err(|error| CliError::io(path.display(), &error))?;
            read_token(&path.display().to_string(), file)?
        }
    };
    let token = Inspected::read(text.as_str()).map_err(|error| failed(&error))?;
    let own = place.ok().and_then(|place| Identity::load(&place.data.join("identity.key")).ok().flatten());
    let expired = token.expires().is_some_and(|at| at <= now_s());
    let bound = token.claims.contains_key("cnf");
    let here = bound.then(|| own.is_some_and(|identity| token.is_bound_to(identity.public_key())));
    if output.json() {
        return output.line(json!({
            "algorithm": token.algorithm, "claims": token.claims, "expired": expired, "bound": bound,
            "bound_to_this_node": here,
        }));
    }
    output.line(serde_json::to_string_pretty(&token.claims).unwrap_or_default())?;
    let when = token.expires().map_or_else(|| "it has no end and is not accepted".to_owned(), shown_time);
    let state = if expired { "expired" } else { "good until" };
    output.line(format_args!("{state}: {when}"))?;
    output.line(format_args!(
        "bound to: {}",
        match here {
            None => "no node; whoever has it may use it",
            Some(true) => "this node",
            Some(false) => "another node",
        }
    ))?;
    output.line(format_args!("signature: {}, not checked here", token.algorithm))
}

fn read_token(name: &str, from: impl std::io::Read) -> Result<Token, CliError> {
    let mut text = String::new();
    from.take(MAX_TOKEN_FILE).read_to_string(&mut text).map_err(|error| CliError::io(name, &error))?;
    text.trim()
        .parse()
        .map_err(|error| CliError::new(ErrorCode::Invalid, format!("{name}: no token: {error}")))
}

fn failed(error: &dyn std::fmt::Display) -> CliError {
    CliError::new(ErrorCode::Invalid, error.to_string())
}

fn issue_failed(error: IssueError) -> CliError {
    let code = match &error {
        IssueError::File { .. } => ErrorCode::Io,
        IssueError::Damaged(_) => ErrorCode::Damaged,
        IssueError::Sign => ErrorCode::Failed,
        _ => ErrorCode::Usage,
    };
    CliError::new(code, error.to_string())
}

fn invitation_failed(error: InvitationError) -> CliError {
    let code = match &error {
        InvitationError::Code => ErrorCode::Usage,
        InvitationError::File { .. } => ErrorCode::Io,
        InvitationError::Refused { .. } => ErrorCode::Unauthenticated,
        InvitationError::Connect(error) if error.is_other_key() => ErrorCode::Unauthenticated,
        InvitationError::Issue(_) => ErrorCode::Usage,
        InvitationError::Connect(_) | InvitationError::Silent(_) => ErrorCode::Unreachable,
        _ => ErrorCode::Failed,
    };
    CliError::new(code, error.to_string())
}
