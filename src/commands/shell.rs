//! `fulgurite completions` and `fulgurite man`: what a shell and `man` need, made from the command line itself.

use std::io::Write as _;

use anyhow::Result;

/// Prints the completion script of a shell on stdout.
pub fn completions(mut command: clap::Command, shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "fulgurite", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(())
}

/// Prints the man page, of one subcommand where named, in roff on stdout.
pub fn man(mut command: clap::Command, subcommand: Option<&str>) -> Result<()> {
    command.build();
    let page = match subcommand.map(|name| (name, command.find_subcommand(name))) {
        None => command,
        Some((_, Some(found))) => found.clone(),
        Some((name, None)) => {
            let names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
            let message = format!("there is no subcommand `{name}`: take one of {}", names.join(", "));
            return Err(crate::exit::Fault::Usage(message).into());
        }
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text)?;
    std::io::stdout().write_all(&text)?;
    Ok(())
}
