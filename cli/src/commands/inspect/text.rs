//! The facts as text: a summary and the operators; on request the graph and the steps.

use super::facts::{CodeFacts, Facts};
use super::placement::Placement;
use crate::table::{Align, Table};
use crate::units;
use fastinference::CheckedPlan;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// Operators that the reference runs are listed up to this many nodes.
const REFERENCE_SHOWN: usize = 40;

/// Prints them.
pub fn print(out: &mut dyn Write, facts: &Facts, plan: &CheckedPlan, graph: bool, steps: bool) -> io::Result<()> {
    writeln!(out, "{}", facts.title)?;
    facts.inputs.iter().try_for_each(|(name, ty)| writeln!(out, "  in       {name} {ty}"))?;
    facts.outputs.iter().try_for_each(|(name, ty)| writeln!(out, "  out      {name} {ty}"))?;
    facts.constraints.iter().try_for_each(|c| writeln!(out, "  assumes  {c}"))?;
    writeln!(out, "  weights  {}", units::bytes(facts.weight_bytes))?;
    code(out, facts)?;
    let arena = units::bytes(facts.arena_bytes);
    writeln!(out, "  arena    {arena} in {} {}", units::plural(facts.arena.len(), "buffer"), facts.assumption())?;
    writeln!(out, "  steps    {} for {}", facts.steps, units::plural(facts.ops.values().sum(), "node"))?;
    waits(out, facts, "main")?;
    operators(out, facts, "main")?;
    on_reference(out, facts)?;
    facts.placement.as_ref().map_or(Ok(()), |p| placement(out, p))?;
    indices(out, facts, "main")?;
    for (name, entry) in facts.entries.iter().filter(|(name, _)| *name != "main") {
        writeln!(out, "entry {name}: {}", units::plural(entry.steps, "step"))?;
        entry.states.iter().try_for_each(|(name, ty)| writeln!(out, "  state    {name} {ty}"))?;
        waits(out, facts, name)?;
        operators(out, facts, name)?;
        indices(out, facts, name)?;
    }
    if graph {
        plan.entries.iter().try_for_each(|entry| writeln!(out, "\n{}", entry.graph))?;
    }
    if steps {
        plan.entries.iter().try_for_each(|entry| {
            writeln!(out, "\nsteps of {}:", entry.name)?;
            entry.steps.iter().enumerate().try_for_each(|(i, step)| writeln!(out, "{i:6}  {step}"))
        })?;
    }
    Ok(())
}

/// `gfx1151 400 KB: linear, norm (by clang version 19.1.7)`, a line per architecture.
fn code(out: &mut dyn Write, facts: &Facts) -> io::Result<()> {
    let mut by_arch: BTreeMap<&str, Vec<&CodeFacts>> = BTreeMap::new();
    facts.code.iter().for_each(|c| by_arch.entry(&c.arch).or_default().push(c));
    by_arch.iter().try_for_each(|(arch, objects)| {
        let files: Vec<&str> = objects.iter().map(|c| &*c.file).collect();
        let bytes = units::bytes(objects.iter().map(|c| c.bytes).sum());
        writeln!(out, "  code     {arch} {bytes}: {} (by {})", files.join(", "), objects[0].compiler)
    })
}

/// `  waits    3 for values, 12 so that the device holds 44 at most`, where streams wait at all.
fn waits(out: &mut dyn Write, facts: &Facts, entry: &str) -> io::Result<()> {
    let Some(syncs) = facts.entries.get(entry).map(|e| &e.syncs) else { return Ok(()) };
    match syncs.steps_between {
        Some(most) => writeln!(
            out,
            "  waits    {} for values, {} so that the device holds {most} at most",
            syncs.order, syncs.pace
        ),
        None if syncs.order > 0 => writeln!(out, "  waits    {} for values", syncs.order),
        None => Ok(()),
    }
}

#[derive(Default)]
struct Sum {
    nodes: usize,
    bytes: u64,
    flops: u64,
}

/// Indices that are not proven, by the value that holds them.
fn indices(out: &mut dyn Write, facts: &Facts, entry: &str) -> io::Result<()> {
    let Some(entry) = facts.entries.get(entry).filter(|e| !e.indices.is_empty()) else { return Ok(()) };
    let proven = entry.indices.iter().filter(|i| i.proven).count();
    writeln!(out, "indices: {proven} proven within range, {} guarded by their kernels", entry.indices.len() - proven)?;
    let mut guarded: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for index in entry.indices.iter().filter(|i| !i.proven) {
        *guarded.entry((&index.index, &index.op)).or_default() += 1;
    }
    guarded.iter().try_for_each(|((index, op), n)| writeln!(out, "  %{index} in {}", units::plural(*n, op)))
}

fn operators(out: &mut dyn Write, facts: &Facts, entry: &str) -> io::Result<()> {
    let mut sums: BTreeMap<(&str, &str), Sum> = BTreeMap::new();
    let is_other = |path: &str| facts.entries.keys().any(|name| path == name || path.starts_with(&format!("{name}/")));
    let belongs = |path: &str| match entry {
        "main" => !is_other(path),
        name => path == name || path.starts_with(&format!("{name}/")),
    };
    for node in facts.nodes.iter().filter(|n| belongs(&n.entry)) {
        let sum = sums.entry((&node.op, &node.kernel)).or_default();
        sum.nodes += 1;
        sum.bytes = sum.bytes.saturating_add(node.bytes.number.unwrap_or(0));
        sum.flops = sum.flops.saturating_add(node.flops.number.unwrap_or(0));
    }
    use Align::{Left, Right};
    let columns = [("op", Left), ("kernel", Left), ("nodes", Right), ("bytes", Right), ("flops", Right)];
    let mut table = Table::new(&columns);
    for ((op, kernel), sum) in sums {
        let numbers = [sum.nodes.to_string(), units::bytes(sum.bytes), units::count(sum.flops)];
        table.row([op.to_string(), kernel.to_string()].into_iter().chain(numbers));
    }
    floats(out, facts, entry)?;
    writeln!(out, "operators:")?;
    table.print(out)
}

/// `  floats   f16 in 210 nodes, f32 in 4 nodes`, where there is more than one type.
fn floats(out: &mut dyn Write, facts: &Facts, entry: &str) -> io::Result<()> {
    let Some(entry) = facts.entries.get(entry).filter(|e| e.floats.len() > 1) else { return Ok(()) };
    let counts = entry.floats.iter().map(|(dtype, n)| format!("{dtype} in {}", units::plural(*n, "node")));
    writeln!(out, "  floats   {}", counts.collect::<Vec<_>>().join(", "))
}

/// The share of a device's plan that runs on the device, and what runs on the host beside it, by operator and reason.
fn placement(out: &mut dyn Write, placement: &Placement) -> io::Result<()> {
    let (done, all) = (units::count(placement.device_flops), units::count(placement.flops));
    let target = &placement.target;
    match placement.share {
        Some(share) => writeln!(out, "on {target}: {} of the flops, {done} of {all}", percent(share))?,
        None => writeln!(out, "on {target}: no flops are known before it runs")?,
    }
    if placement.exceptions.is_empty() {
        return Ok(());
    }
    let (nodes, bytes) =
        placement.exceptions.iter().fold((0, 0u64), |(n, b), e| (n + e.nodes, b.saturating_add(e.bytes)));
    writeln!(out, "on the host, beside the device: {}, {}", units::plural(nodes, "node"), units::bytes(bytes))?;
    for e in &placement.exceptions {
        let (nodes, bytes, flops) = (units::plural(e.nodes, "node"), units::bytes(e.bytes), units::count(e.flops));
        let share = percent(e.flops as f64 / placement.flops.max(1) as f64);
        writeln!(out, "  {}: {nodes}, {bytes}, {flops} flops ({share}): {}", e.op, e.reason)?;
    }
    Ok(())
}

/// `98.7%`; nothing but all of it is 100%, nothing but nothing 0%.
fn percent(share: f64) -> String {
    let shown = format!("{:.1}%", 100.0 * share);
    match shown.as_str() {
        "100.0%" if share < 1.0 => "99.9%".into(),
        "0.0%" if share > 0.0 => "under 0.1%".into(),
        _ => shown,
    }
}

fn on_reference(out: &mut dyn Write, facts: &Facts) -> io::Result<()> {
    let nodes: Vec<_> = facts.on_reference().collect();
    if nodes.is_empty() {
        return Ok(());
    }
    let bytes = nodes.iter().filter_map(|n| n.bytes.number).fold(0u64, u64::saturating_add);
    writeln!(
        out,
        "without a kernel, on the reference evaluation: {}, {}",
        units::plural(nodes.len(), "node"),
        units::bytes(bytes)
    )?;
    for node in nodes.iter().take(REFERENCE_SHOWN) {
        let from = if node.origins.is_empty() { String::new() } else { format!(" from {}", node.origins.join(" + ")) };
        writeln!(out, "  %{} = {}{from}", node.name, node.op)?;
    }
    if nodes.len() > REFERENCE_SHOWN {
        writeln!(out, "  and {} more", nodes.len() - REFERENCE_SHOWN)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::percent;

    #[test]
    fn only_all_of_it_is_shown_as_all() {
        assert_eq!([1.0, 0.99999, 0.5, 0.00001, 0.0].map(percent), ["100.0%", "99.9%", "50.0%", "under 0.1%", "0.0%"]);
    }
}
