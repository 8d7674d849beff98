//! The manual's pages as they are meant for machines.

use std::fmt::Write as _;

/// One block of a page that is meant for machines.
pub(crate) struct Block<'a> {
    /// Where on the page it begins.
    pub(crate) line: usize,
    /// The file that it is the content of; none for a script.
    pub(crate) file: Option<&'a str>,
    pub(crate) machines: Vec<&'a str>,
    pub(crate) text: String,
}

/// Reads the blocks whose first line says `on` and machines: ` ```sh on s1 ` or ` ```hcl /etc/weft/server.hcl on s1 `.
pub(crate) fn blocks(page: &str) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let mut is_inside = false;
    for (at, line) in page.lines().enumerate() {
        match line.strip_prefix("```") {
            Some("") => is_inside = false,
            Some(info) => {
                is_inside = false;
                let Some((what, machines)) = info.split_once(" on ") else { continue };
                let file = what.split_once(' ').map(|(_, file)| file);
                let machines = machines.split(", ").collect();
                blocks.push(Block { line: at + 1, file, machines, text: String::new() });
                is_inside = true;
            }
            None if is_inside => {
                let block = blocks.last_mut().unwrap();
                writeln!(block.text, "{line}").unwrap();
            }
            None => {}
        }
    }
    blocks
}
