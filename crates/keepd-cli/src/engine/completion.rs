//! `completion`: scripts that teach a shell the commands and options.
//!
//! The scripts are written from the command tables and hold everything they offer, so completing
//! a word starts no process. The bash function is named as etcd's is, `__start_etcdctl`: setups
//! that refer to it keep working.

use std::fmt::Write as _;

use super::GROUP_UTILITY;
use super::answer::print;
use super::command::{Arguments, Call, Command, Flag, Kind, Program};
use super::exit::Exit;

/// The command.
pub(crate) static COMMAND: Command = Command {
    usage: "completion [bash|zsh|fish|powershell]",
    short: "Generate completion script",
    long: "To load completions:

Bash:

  $ source <(etcdctl completion bash)

  # To load completions for each session, execute once:
  # Linux:
  $ etcdctl completion bash > /etc/bash_completion.d/etcdctl
  # macOS:
  $ etcdctl completion bash > /usr/local/etc/bash_completion.d/etcdctl

Zsh:

  # If shell completion is not already enabled in your environment,
  # you will need to enable it.  You can execute the following once:

  $ echo \"autoload -U compinit; compinit\" >> ~/.zshrc

  # To load completions for each session, execute once:
  $ etcdctl completion zsh > \"${fpath[1]}/_etcdctl\"

  # You will need to start a new shell for this setup to take effect.

fish:

  $ etcdctl completion fish | source

  # To load completions for each session, execute once:
  $ etcdctl completion fish > ~/.config/fish/completions/etcdctl.fish

PowerShell:

  PS> etcdctl completion powershell | Out-String | Invoke-Expression

  # To load completions for every new session, run:
  PS> etcdctl completion powershell > etcdctl.ps1
  # and source this file from your PowerShell profile.
",
    group: GROUP_UTILITY,
    arguments: Arguments::OneOf(&["bash", "zsh", "fish", "powershell"]),
    run: Some(run),
    ..Command::NONE
};

fn run(call: Call<'_>) -> Result<(), Exit> {
    let places = places(call.program);
    let name = call.program.root.name();
    let script = match call.text(0).as_ref() {
        "bash" => bash(name, &places),
        "zsh" => zsh(name, &places),
        "fish" => fish(name, &places),
        _ => powershell(name, &places),
    };
    print(script.as_bytes());
    Ok(())
}

/// A point of the command tree, and what may follow there.
struct Place {
    /// The words that lead there, without the program's name.
    path: Vec<&'static str>,
    commands: &'static [&'static Command],
    /// Words the command takes besides subcommands.
    words: &'static [&'static str],
    flags: Vec<&'static Flag>,
}

impl Place {
    fn words(&self) -> Vec<&'static str> {
        let names = self.commands.iter().map(|command| command.name());
        names.chain(self.words.iter().copied()).collect()
    }

    fn options(&self) -> Vec<String> {
        let mut options: Vec<String> =
            self.flags.iter().map(|flag| format!("--{}", flag.name)).collect();
        options.push("--help".to_owned());
        options
    }
}

fn places(program: &Program) -> Vec<Place> {
    let mut places = Vec::new();
    visit(program.root, Vec::new(), &[], &mut places);
    places
}

/// The tree is as deep as its constant tables are, three levels.
fn visit(
    command: &'static Command,
    path: Vec<&'static str>,
    inherited: &[&'static Flag],
    places: &mut Vec<Place>,
) {
    let mut handed_down = inherited.to_vec();
    handed_down.extend(command.inherited);
    let words = match command.arguments {
        Arguments::OneOf(words) => words,
        Arguments::Any | Arguments::One => &[],
    };
    let flags = handed_down.iter().copied().chain(command.flags).collect();
    for child in command.commands {
        let mut path = path.clone();
        path.push(child.name());
        visit(child, path, &handed_down, places);
    }
    places.push(Place { path, commands: command.commands, words, flags });
}

/// The functions both bash and zsh use.
fn shell_functions(name: &str, places: &[Place]) -> String {
    let mut out = format!("__{name}_words() {{\n    case \"$1\" in\n");
    for place in places.iter().filter(|place| !place.words().is_empty()) {
        let (path, words) = (place.path.join(" "), place.words().join(" "));
        writeln!(out, "    \"{path}\") echo \"{words}\" ;;").expect("a string takes everything");
    }
    write!(out, "    esac\n}}\n\n__{name}_options() {{\n    case \"$1\" in\n")
        .expect("a string takes everything");
    for place in places {
        let (path, options) = (place.path.join(" "), place.options().join(" "));
        writeln!(out, "    \"{path}\") echo \"{options}\" ;;").expect("a string takes everything");
    }
    out.push_str("    esac\n}\n");
    out
}

fn bash(name: &str, places: &[Place]) -> String {
    let functions = shell_functions(name, places);
    format!(
        r#"# bash completion for {name}

{functions}
__start_{name}() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" path="" word known position
    for ((position = 1; position < COMP_CWORD; position++)); do
        word="${{COMP_WORDS[position]}}"
        for known in $(__{name}_words "$path"); do
            if [[ "$word" == "$known" ]]; then
                path="${{path:+$path }}$word"
                break
            fi
        done
    done
    if [[ "$current" == -* ]]; then
        COMPREPLY=($(compgen -W "$(__{name}_options "$path")" -- "$current"))
    else
        COMPREPLY=($(compgen -W "$(__{name}_words "$path")" -- "$current"))
    fi
}}

complete -o default -F __start_{name} {name}
"#
    )
}

fn zsh(name: &str, places: &[Place]) -> String {
    let functions = shell_functions(name, places);
    format!(
        r#"#compdef {name}
compdef _{name} {name}

# zsh completion for {name}

{functions}
_{name}() {{
    local path_so_far="" word known
    for word in "${{(@)words[2,CURRENT-1]}}"; do
        for known in ${{=$(__{name}_words "$path_so_far")}}; do
            if [[ "$word" == "$known" ]]; then
                path_so_far="${{path_so_far:+$path_so_far }}$word"
                break
            fi
        done
    done
    if [[ "${{words[CURRENT]}}" == -* ]]; then
        compadd -- ${{=$(__{name}_options "$path_so_far")}}
    else
        compadd -- ${{=$(__{name}_words "$path_so_far")}} || _files
    fi
}}

if [ "$funcstack[1]" = "_{name}" ]; then
    _{name}
fi
"#
    )
}

fn fish(name: &str, places: &[Place]) -> String {
    let mut out = format!("# fish completion for {name}\n\ncomplete -c {name} -e\n");
    for place in places {
        // The words that lead here were typed, and none that leads on from here.
        let mut conditions: Vec<String> =
            place.path.iter().map(|word| format!("__fish_seen_subcommand_from {word}")).collect();
        let words = place.words();
        if !words.is_empty() {
            conditions.push(format!("not __fish_seen_subcommand_from {}", words.join(" ")));
        }
        let condition = conditions.join("; and ");
        let condition =
            if condition.is_empty() { String::new() } else { format!(" -n '{condition}'") };
        for command in place.commands {
            let about = command.short.replace('\'', "\\'");
            writeln!(out, "complete -c {name} -f{condition} -a {} -d '{about}'", command.name())
                .expect("a string takes everything");
        }
        if !place.words.is_empty() {
            writeln!(out, "complete -c {name} -f{condition} -a '{}'", place.words.join(" "))
                .expect("a string takes everything");
        }
        for flag in &place.flags {
            let short = flag.short.map_or_else(String::new, |letter| format!(" -s {letter}"));
            let value = if flag.kind == Kind::Bool { "" } else { " -r" };
            let about = flag.usage.replace('\'', "\\'");
            writeln!(
                out,
                "complete -c {name}{condition}{short} -l {}{value} -d '{about}'",
                flag.name
            )
            .expect("a string takes everything");
        }
    }
    out
}

fn powershell(name: &str, places: &[Place]) -> String {
    let mut table = String::new();
    for place in places {
        let all: Vec<String> = place
            .words()
            .into_iter()
            .map(str::to_owned)
            .chain(place.options())
            .map(|word| format!("'{word}'"))
            .collect();
        writeln!(table, "        '{}' = @({})", place.path.join(" "), all.join(", "))
            .expect("a string takes everything");
    }
    format!(
        r#"# powershell completion for {name}

Register-ArgumentCompleter -Native -CommandName '{name}' -ScriptBlock {{
    param($wordToComplete, $commandAst, $cursorPosition)
    $places = @{{
{table}    }}
    $path = ''
    foreach ($element in $commandAst.CommandElements | Select-Object -Skip 1) {{
        $next = "$path $element".Trim()
        if ($places.ContainsKey($next)) {{ $path = $next }}
    }}
    $places[$path] | Where-Object {{ $_ -like "$wordToComplete*" }} | ForEach-Object {{
        [System.Management.Automation.CompletionResult]::new($_, $_, 'ParameterValue', $_)
    }}
}}
"#
    )
}
