//! The commands: which there are, how one is found and run, and how its end becomes an exit code.

mod auth;
mod check;
mod endpoint;
mod global;
mod help;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod member;
mod role;
mod snapshot;
mod txn;
mod user;
mod watch;

use std::collections::BTreeMap;

pub use global::{GLOBAL_FLAGS, environment};

use quorate_api::etcdserverpb::downgrade_request::DowngradeAction;

use crate::client::Client;
use crate::failure::{Failure, Result};
use crate::flags::{Args, Flag};
use crate::print::{Format, Printer, Style};

/// One command.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// One or two words.
    pub name: &'static str,
    /// What follows the name in the usage line.
    pub usage: &'static str,
    /// One line for the list of commands.
    pub about: &'static str,
    /// Its own flags.
    pub flags: &'static [Flag],
}

const fn command(name: &'static str, usage: &'static str, about: &'static str, flags: &'static [Flag]) -> Command {
    Command { name, usage, about, flags }
}

/// Every command, in the order of the help text.
pub const COMMANDS: &[Command] = &[
    command("alarm disarm", "", "Clears every alarm", &[]),
    command("alarm list", "", "Lists the alarms", &[]),
    command("auth disable", "", "Disables authentication", &[]),
    command("auth enable", "", "Enables authentication", &[]),
    command("auth status", "", "Shows whether authentication is enabled", &[]),
    command("check perf", "[options]", "Measures whether the cluster bears a load", check::FLAGS),
    command("compaction", "[options] <revision>", "Discards history below a revision", maintenance::COMPACTION_FLAGS),
    command("completion", "<bash|fish|zsh>", "Writes a completion script for a shell", &[]),
    command("defrag", "", "Gives free space in the members' files back", endpoint::CLUSTER_FLAGS),
    command("del", "[options] <key> [range_end]", "Deletes a key or a range of keys", kv::DEL_FLAGS),
    command("downgrade cancel", "", "Cancels a downgrade of the cluster", &[]),
    command("downgrade enable", "<TARGET_VERSION>", "Begins a downgrade of the cluster", &[]),
    command("downgrade validate", "<TARGET_VERSION>", "Checks whether the cluster can be downgraded", &[]),
    command("elect", "<election-name> [proposal]", "Takes part in an election, or observes it", lock::ELECT_FLAGS),
    command("endpoint hashkv", "", "Shows a hash over the keys of each endpoint", endpoint::HASH_FLAGS),
    command("endpoint health", "", "Checks that each endpoint can commit", endpoint::CLUSTER_FLAGS),
    command("endpoint status", "", "Shows the state of each endpoint", endpoint::CLUSTER_FLAGS),
    command("get", "[options] <key> [range_end]", "Reads a key or a range of keys", kv::GET_FLAGS),
    command("help", "[command]", "Shows help for a command", &[]),
    command("lease grant", "<ttl>", "Creates a lease", &[]),
    command("lease keep-alive", "[options] <leaseID>", "Renews a lease until stopped", lease::KEEP_ALIVE_FLAGS),
    command("lease list", "", "Lists the leases", &[]),
    command("lease revoke", "<leaseID>", "Ends a lease and deletes its keys", &[]),
    command("lease timetolive", "<leaseID> [options]", "Shows what is left of a lease", lease::TIME_TO_LIVE_FLAGS),
    command("lock", "<lockname> [exec-command arg1 arg2 ...]", "Holds a lock", lock::LOCK_FLAGS),
    command("member add", "<memberName> [options]", "Adds a member", member::ADD_FLAGS),
    command("member list", "", "Lists the members", member::LIST_FLAGS),
    command("member promote", "<memberID>", "Makes a learner a voter", &[]),
    command("member remove", "<memberID>", "Removes a member", &[]),
    command("member update", "<memberID> [options]", "Changes a member's peer URLs", member::UPDATE_FLAGS),
    command("move-leader", "<transferee-member-id>", "Makes another member the leader", &[]),
    command("options", "", "Lists the flags that every command understands", &[]),
    command("put", "[options] <key> <value>", "Writes a key; the value may come from stdin", kv::PUT_FLAGS),
    command("role add", "<role name>", "Adds a role", &[]),
    command("role delete", "<role name>", "Deletes a role", &[]),
    command("role get", "<role name>", "Shows what a role allows", &[]),
    command(
        "role grant-permission",
        "[options] <role name> <permission type> <key> [endkey]",
        "Lets a role read or write keys",
        role::RANGE_FLAGS,
    ),
    command("role list", "", "Lists the roles", &[]),
    command(
        "role revoke-permission",
        "<role name> <key> [endkey]",
        "Takes a permission from a role",
        role::RANGE_FLAGS,
    ),
    command(
        "snapshot restore",
        "[options] <filename>",
        "Makes a member's data directory from a backup, or from etcd's data",
        snapshot::RESTORE_FLAGS,
    ),
    command("snapshot save", "<filename>", "Saves a backup of an endpoint's data", &[]),
    command("snapshot status", "<filename>", "Shows what a backup holds", &[]),
    command("txn", "[options]", "Runs a transaction read from stdin", txn::FLAGS),
    command("user add", "<user name or user:password> [options]", "Adds a user", user::ADD_FLAGS),
    command("user delete", "<user name>", "Deletes a user", &[]),
    command("user get", "<user name> [options]", "Shows the roles of a user", user::GET_FLAGS),
    command("user grant-role", "<user name> <role name>", "Gives a role to a user", &[]),
    command("user list", "", "Lists the users", &[]),
    command("user passwd", "<user name> [options]", "Changes the password of a user", user::PASSWD_FLAGS),
    command("user revoke-role", "<user name> <role name>", "Takes a role from a user", &[]),
    command("version", "", "Shows the versions", &[]),
    command(
        "watch",
        "[options] [key or prefix] [range_end] [--] [exec-command arg1 arg2 ...]",
        "Shows events on keys as they happen",
        watch::FLAGS,
    ),
];

/// What a command runs with.
#[derive(Debug)]
pub struct Context {
    /// The program's name in messages.
    pub program: String,
    /// Its flags and arguments.
    pub args: Args,
    /// The process's environment.
    pub vars: BTreeMap<String, String>,
    /// `--write-out` and what goes with it.
    pub printer: Printer,
}

impl Context {
    /// A client of the endpoints that the flags name.
    ///
    /// # Errors
    /// The flags cannot be satisfied.
    pub fn client(&self) -> Result<Client> {
        Client::new(global::config(&self.args)?).map_err(Failure::bad_connection)
    }

    /// A client whose calls last as long as they take, unless the user limits them.
    ///
    /// # Errors
    /// The flags cannot be satisfied.
    pub fn patient_client(&self) -> Result<Client> {
        let mut config = global::config(&self.args)?;
        config.command_timeout = config.command_timeout.filter(|_| self.args.is_given("command-timeout"));
        Client::new(config).map_err(Failure::bad_connection)
    }

    /// The only argument.
    ///
    /// # Errors
    /// `complaint`, if there is none or more than one.
    pub fn one_word(&self, complaint: &str) -> Result<&str> {
        match self.args.words() {
            [word] => Ok(word),
            _ => Err(Failure::bad_args(complaint)),
        }
    }
}

/// The end of the range of all keys that begin with `key`: a zero byte stands for none.
pub(crate) fn prefix_end(key: &[u8]) -> Vec<u8> {
    let mut end = key.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// What the words of a command line lead to.
enum Found {
    Command(&'static Command),
    /// A first word alone, such as `lease`.
    Group(String),
    /// No word at all.
    Nothing,
}

/// Runs the command line `args` of `program` in environment `vars`; says what went wrong, and gives the exit code.
pub async fn run(program: &str, args: Vec<String>, vars: BTreeMap<String, String>) -> u8 {
    match try_run(program, args, vars).await {
        Ok(()) => 0,
        Err(Failure { code, message }) => {
            if let Some(message) = message {
                eprintln!("Error: {message}");
            }
            code
        }
    }
}

async fn try_run(program: &str, raw: Vec<String>, vars: BTreeMap<String, String>) -> Result<()> {
    let (found, rest) = find(program, raw)?;
    let command = match found {
        Found::Command(command) => command,
        Found::Group(group) => return help::group(program, &group),
        Found::Nothing if rest.iter().any(|word| word == "--version") => return help::version(program),
        Found::Nothing => return help::all(program),
    };
    let flags = || command.flags.iter().chain(GLOBAL_FLAGS).chain([&help::FLAG]);
    let mut args = Args::parse(flags(), &rest).map_err(|error| {
        eprintln!("Error: {error}\n{}", help::text(program, command));
        Failure::silent(1)
    })?;
    if args.bool("help") {
        return help::command(program, command);
    }
    environment(&mut args, &vars)?;
    if args.bool("debug") {
        crate::clock::enable_debug();
    }
    let style = Style { hex: args.bool("hex"), value_only: false };
    let printer = Printer { format: Format::parse(args.string("write-out"))?, style };
    dispatch(command, Context { program: program.to_owned(), args, vars, printer }).await
}

async fn dispatch(command: &Command, context: Context) -> Result<()> {
    let c = &context;
    match command.name {
        "alarm disarm" => maintenance::disarm(c).await,
        "alarm list" => maintenance::alarms(c).await,
        "auth disable" => auth::disable(c).await,
        "auth enable" => auth::enable(c).await,
        "auth status" => auth::status(c).await,
        "check perf" => check::perf(c).await,
        "compaction" => maintenance::compaction(c).await,
        "completion" => help::completion(c),
        "defrag" => endpoint::defrag(c).await,
        "del" => kv::del(c).await,
        "downgrade cancel" => maintenance::downgrade(c, DowngradeAction::Cancel).await,
        "downgrade enable" => maintenance::downgrade(c, DowngradeAction::Enable).await,
        "downgrade validate" => maintenance::downgrade(c, DowngradeAction::Validate).await,
        "elect" => lock::elect(c).await,
        "endpoint hashkv" => endpoint::hash(c).await,
        "endpoint health" => endpoint::health(c).await,
        "endpoint status" => endpoint::status(c).await,
        "get" => kv::get(c).await,
        "help" => help::of(c),
        "lease grant" => lease::grant(c).await,
        "lease keep-alive" => lease::keep_alive(c).await,
        "lease list" => lease::list(c).await,
        "lease revoke" => lease::revoke(c).await,
        "lease timetolive" => lease::time_to_live(c).await,
        "lock" => lock::lock(c).await,
        "member add" => member::add(c).await,
        "member list" => member::list(c).await,
        "member promote" => member::promote(c).await,
        "member remove" => member::remove(c).await,
        "member update" => member::update(c).await,
        "move-leader" => maintenance::move_leader(c).await,
        "options" => help::options(),
        "put" => kv::put(c).await,
        "role add" => role::add(c).await,
        "role delete" => role::delete(c).await,
        "role get" => role::get(c).await,
        "role grant-permission" => role::grant_permission(c).await,
        "role list" => role::list(c).await,
        "role revoke-permission" => role::revoke_permission(c).await,
        "snapshot restore" => snapshot::restore(c),
        "snapshot save" => maintenance::save(c).await,
        "snapshot status" => snapshot::status(c),
        "txn" => txn::txn(c).await,
        "user add" => user::add(c).await,
        "user delete" => user::delete(c).await,
        "user get" => user::get(c).await,
        "user grant-role" => user::grant_role(c).await,
        "user list" => user::list(c).await,
        "user passwd" => user::passwd(c).await,
        "user revoke-role" => user::revoke_role(c).await,
        "version" => help::version(&c.program),
        "watch" => watch::watch(c).await,
        name => unreachable!("command {name:?} has no code"),
    }
}

/// Finds the command in `raw`, and what is left without its words. Words may be shortened as long as they are unique.
fn find(program: &str, mut raw: Vec<String>) -> Result<(Found, Vec<String>)> {
    let Some(at) = first_word(&raw, 0) else { return Ok((Found::Nothing, raw)) };
    let word = raw.remove(at);
    let firsts = COMMANDS.iter().filter_map(|c| c.name.split(' ').next());
    let Some(first) = unique(&word, firsts) else {
        eprintln!("Error: unknown command {word:?} for {program:?}\nRun '{program} --help' for usage.");
        return Err(Failure::silent(1));
    };
    if let Some(command) = COMMANDS.iter().find(|c| c.name == first) {
        return Ok((Found::Command(command), raw));
    }
    let group = || COMMANDS.iter().filter_map(|c| Some((c.name.strip_prefix(first)?.strip_prefix(' ')?, c)));
    let found = first_word(&raw, at).and_then(|at| {
        let second = unique(&raw[at], group().map(|(second, _)| second))?;
        raw.remove(at);
        group().find(|(name, _)| *name == second)
    });
    match found {
        Some((_, command)) => Ok((Found::Command(command), raw)),
        None => Ok((Found::Group(first.to_owned()), raw)),
    }
}

/// The one of `names` that is `word`, or the only one that begins with it.
fn unique<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut candidates: Vec<&str> = names.filter(|name| name.starts_with(word)).collect();
    candidates.dedup();
    match candidates.as_slice() {
        [only] => Some(only),
        several => several.iter().find(|name| **name == word).copied(),
    }
}

/// Where the first argument stands that is neither a flag nor a flag's value, from `start` on.
fn first_word(raw: &[String], start: usize) -> Option<usize> {
    let mut at = start;
    while at < raw.len() {
        let word = &raw[at];
        if word == "--" {
            return None;
        }
        if !word.starts_with('-') {
            return Some(at);
        }
        let takes_next = GLOBAL_FLAGS.iter().any(|flag| {
            let long = word.strip_prefix("--") == Some(flag.name);
            let short = flag.short.is_some_and(|s| word.strip_prefix('-') == Some(s.to_string().as_str()));
            flag.kind != crate::flags::Kind::Bool && (long || short)
        });
        at += if takes_next { 2 } else { 1 };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(line: &str) -> Option<(&'static str, Vec<String>)> {
        match find("quoratectl", line.split(' ').map(str::to_owned).collect()).ok()? {
            (Found::Command(command), rest) => Some((command.name, rest)),
            _ => None,
        }
    }

    #[test]
    fn commands_are_found_between_flags_and_by_unique_prefixes() {
        assert_eq!(found("-w json get a").unwrap(), ("get", vec!["-w".into(), "json".into(), "a".into()]));
        assert_eq!(found("--endpoints x --hex lease --debug gr 5").unwrap().0, "lease grant");
        assert_eq!(found("comple bash").unwrap().0, "completion");
        assert_eq!(found("endpoint s").unwrap().0, "endpoint status");
        assert!(found("comp").is_none(), "compaction or completion");
        assert!(found("nonsense").is_none());
        assert!(found("lease nonsense").is_none());
    }

    #[test]
    fn the_list_of_commands_is_sorted_and_names_are_unique() {
        let names: Vec<&str> = COMMANDS.iter().map(|c| c.name).collect();
        assert!(names.is_sorted());
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
