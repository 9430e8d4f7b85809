//! Help texts, versions and completion scripts.

use crate::commands::{COMMANDS, Command, Context, GLOBAL_FLAGS};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Kind};
use crate::print::write_stdout;

/// `-h`, which every command understands.
pub(super) const FLAG: Flag = Flag::bool("help", "show this help").or('h');

/// The program's own help.
pub(super) fn all(program: &str) -> Result<()> {
    let width = COMMANDS.iter().map(|c| c.name.len()).max().unwrap_or(0);
    let mut text = format!(
        "NAME:\n\t{program} - drives a Quorate or etcd cluster\n\nUSAGE:\n\t{program} [flags]\n\nVERSION:\n\t{}\n\n\
         API VERSION:\n\t{}\n\n\nCOMMANDS:\n",
        crate::ETCD_VERSION,
        api_version(),
    );
    for command in COMMANDS {
        text += &format!("\t{:width$}  {}\n", command.name, command.about);
    }
    text += "\nOPTIONS:\n";
    text += &flag_lines([&FLAG]);
    text += &format!("\nEvery command also understands the flags that '{program} options' lists.\n");
    write_stdout(text.as_bytes())
}

/// The help of a first word with several commands behind it.
pub(super) fn group(program: &str, group: &str) -> Result<()> {
    let mut text = format!("USAGE:\n\t{program} {group} <subcommand> [flags]\n\nCOMMANDS:\n");
    for command in COMMANDS {
        if let Some(name) = command.name.strip_prefix(group).and_then(|rest| rest.strip_prefix(' ')) {
            text += &format!("\t{name:12}  {}\n", command.about);
        }
    }
    text += "\nOPTIONS:\n";
    text += &flag_lines([&FLAG]);
    write_stdout(text.as_bytes())
}

/// A command's help.
pub(super) fn command(program: &str, command: &Command) -> Result<()> {
    write_stdout(text(program, command).as_bytes())
}

pub(super) fn text(program: &str, command: &Command) -> String {
    let (name, usage) = (command.name, command.usage);
    let short = name.rsplit(' ').next().unwrap_or(name);
    let space = if usage.is_empty() { "" } else { " " };
    let mut text =
        format!("NAME:\n\t{short} - {}\n\nUSAGE:\n\t{program} {name}{space}{usage} [flags]\n", command.about);
    text += "\nOPTIONS:\n";
    text += &flag_lines(command.flags.iter().chain([&FLAG]));
    text + &format!("\nEvery command also understands the flags that '{program} options' lists.\n")
}

fn flag_lines<'a>(flags: impl IntoIterator<Item = &'a Flag>) -> String {
    let lines: Vec<(String, &str)> = flags
        .into_iter()
        .map(|flag| {
            let short = flag.short.map_or("    ".to_owned(), |s| format!("-{s}, "));
            let value = match flag.kind {
                Kind::Bool => format!("[={}]", flag.default),
                Kind::String => format!("=\"{}\"", flag.default),
                Kind::Strings => format!("=[{}]", flag.default),
                Kind::Int | Kind::Duration => format!("={}", flag.default),
            };
            (format!("  {short}--{}{value}", flag.name), flag.about)
        })
        .collect();
    let width = lines.iter().map(|(flag, _)| flag.len()).max().unwrap_or(0);
    lines.iter().map(|(flag, about)| format!("{flag:width$}  {about}\n")).collect()
}

/// `help [command]`.
pub(super) fn of(context: &Context) -> Result<()> {
    let name = context.args.words().join(" ");
    match COMMANDS.iter().find(|c| c.name == name) {
        Some(found) => command(&context.program, found),
        None if name.is_empty() => all(&context.program),
        None if COMMANDS.iter().any(|c| c.name.starts_with(&format!("{name} "))) => group(&context.program, &name),
        None => Err(Failure::error(format!("Unknown help topic {name:?}"))),
    }
}

/// `options`.
pub(super) fn options() -> Result<()> {
    write_stdout(
        format!("The following options can be passed to any command:\n\n{}", flag_lines(GLOBAL_FLAGS)).as_bytes(),
    )
}

/// `version`: the version of etcd that is claimed and, unless the program poses as etcdctl, Quorate's own.
pub(super) fn version(program: &str) -> Result<()> {
    let mut text = format!("etcdctl version: {}\nAPI version: {}\n", crate::ETCD_VERSION, api_version());
    if program != "etcdctl" {
        text += &format!("Quorate version: {}\n", env!("CARGO_PKG_VERSION"));
    }
    write_stdout(text.as_bytes())
}

fn api_version() -> &'static str {
    crate::ETCD_VERSION.rsplit_once('.').map_or(crate::ETCD_VERSION, |(minor, _)| minor)
}

/// `completion <shell>`.
pub(super) fn completion(context: &Context) -> Result<()> {
    let shell = context.one_word("completion command needs the name of one shell")?;
    let program = &context.program;
    let mut words: Vec<(&str, Vec<&str>)> = Vec::new();
    for command in COMMANDS {
        let (first, second) = command.name.split_once(' ').unwrap_or((command.name, ""));
        match words.last_mut() {
            Some((last, seconds)) if *last == first => seconds.push(second),
            _ => words.push((first, vec![second])),
        }
    }
    let firsts = words.iter().map(|(first, _)| *first).collect::<Vec<_>>().join(" ");
    let groups = words.iter().filter(|(_, seconds)| seconds != &[""]);
    let script = match shell {
        "bash" | "zsh" => {
            let cases: String = groups.map(|(g, s)| format!("    {g}) words=\"{}\" ;;\n", s.join(" "))).collect();
            let zsh = if shell == "zsh" { "autoload -U +X bashcompinit && bashcompinit\n" } else { "" };
            format!(
                "{zsh}_{program}_complete() {{\n  local words=\"\"\n  if [ \"$COMP_CWORD\" -eq 1 ]; then\n    \
                 words=\"{firsts}\"\n  else\n    case \"${{COMP_WORDS[1]}}\" in\n{cases}    esac\n  fi\n  \
                 COMPREPLY=($(compgen -W \"$words\" -- \"${{COMP_WORDS[COMP_CWORD]}}\"))\n}}\n\
                 complete -F _{program}_complete {program}\n"
            )
        }
        "fish" => {
            let cases: String = groups
                .map(|(g, s)| {
                    format!("complete -c {program} -f -n '__fish_seen_subcommand_from {g}' -a '{}'\n", s.join(" "))
                })
                .collect();
            format!("complete -c {program} -f -n __fish_use_subcommand -a '{firsts}'\n{cases}")
        }
        _ => return Err(Failure::bad_args(format!("no completion script for shell {shell:?}"))),
    };
    write_stdout(script.as_bytes())
}
