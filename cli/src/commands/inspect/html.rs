//! The facts as one page that needs no other file: a table of nodes to search and sort, and the arena over the steps.

use super::facts::{Block, Facts};
use crate::units;
use std::fmt::Write;

/// Size of the picture.
const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 420.0;

/// The page.
pub fn page(facts: &Facts) -> String {
    let title = escaped(&facts.title);
    // `<` must not appear in a script's text, or a name such as `</script>` would end it.
    let nodes = serde_json::to_string(&facts.nodes).expect("plain data has a JSON form").replace('<', "\\u003c");
    let arena = units::bytes(facts.arena_bytes);
    let about = format!(
        "{} nodes, {} steps, weights {}, arena {arena} {}",
        facts.nodes.len(),
        facts.steps,
        units::bytes(facts.weight_bytes),
        escaped(&facts.assumption()),
    );
    let template = include_str!("page.html");
    let page = template.replace("{{title}}", &title).replace("{{about}}", &about).replace("{{ports}}", &ports(facts));
    let page = page.replace("{{arena}}", &picture(&facts.arena, facts.arena_bytes, facts.steps));
    page.replace("{{nodes}}", &nodes)
}

fn ports(facts: &Facts) -> String {
    let mut rows = String::new();
    for (word, list) in [("in", &facts.inputs), ("out", &facts.outputs)] {
        for (name, ty) in list {
            let _ = write!(rows, "<tr><td>{word}<td>{}<td>{}", escaped(name), escaped(ty));
        }
    }
    rows
}

/// Time runs to the right, memory upwards; every buffer is a rectangle from its first to its last step.
fn picture(arena: &[Block], total: u64, steps: usize) -> String {
    if arena.is_empty() || total == 0 {
        return "<p>No step needs memory of the arena.".into();
    }
    let (x, y) = (WIDTH / steps.max(1) as f64, HEIGHT / total as f64);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\">");
    for (i, block) in arena.iter().enumerate() {
        let (first, last) = block.steps;
        let width = (f64::from(last) - f64::from(first) + 1.0) * x;
        let height = block.bytes as f64 * y;
        let top = HEIGHT - (block.offset as f64 * y) - height;
        let hue = (i * 47) % 360;
        let _ = write!(
            svg,
            "<rect x=\"{:.2}\" y=\"{top:.2}\" width=\"{width:.2}\" height=\"{height:.2}\" fill=\"hsl({hue} 55% 68%)\"><title>b{i} {}: {} at {}, steps {first} to {last}</title></rect>",
            f64::from(first) * x,
            escaped(&block.value),
            units::bytes(block.bytes),
            units::bytes(block.offset),
        );
    }
    svg + "</svg>"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_buffer_is_in_the_picture() {
        let block = |offset, steps| Block { offset, bytes: 64, steps, value: "a<b".into() };
        let svg = picture(&[block(0, (0, 1)), block(64, (1, 3))], 128, 4);
        assert_eq!(svg.matches("<rect").count(), 2);
        assert!(svg.contains("x=\"300.00\" y=\"0.00\" width=\"900.00\" height=\"210.00\""), "{svg}");
        assert!(svg.contains("a&lt;b"), "{svg}");
    }
}
