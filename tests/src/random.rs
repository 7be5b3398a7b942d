//! Random numbers that are the same on every machine (splitmix64).

/// A source of random numbers.
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.number() % n as u64) as usize
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Cuts, flips, overwrites or repeats some bytes.
pub fn mutate_bytes(random: &mut Random, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return bytes.push(random.number() as u8);
    }
    let at = random.below(bytes.len());
    match random.below(4) {
        0 => bytes.truncate(at),
        1 => bytes[at] ^= 1 << random.below(8),
        2 => bytes[at] = random.number() as u8,
        _ => {
            let end = (at + 1 + random.below(40)).min(bytes.len());
            let part = bytes[at..end].to_vec();
            let to = random.below(bytes.len());
            bytes.splice(to..to, part);
        }
    }
}

/// Removes, repeats, swaps or edits some lines: what a hand does to a text.
pub fn mutate_text(random: &mut Random, text: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(String::from).collect();
    let (a, b) = (random.below(lines.len()), random.below(lines.len()));
    match random.below(7) {
        0 => drop(lines.remove(a)),
        1 => lines.insert(b, lines[a].clone()),
        2 => lines.swap(a, b),
        3 => lines.truncate(a),
        4 => {
            // One word in the place of another.
            let words: Vec<&str> = text.split_whitespace().collect();
            let (old, new) = (random.pick(&words), random.pick(&words));
            lines[a] = lines[a].replacen(old, new, 1);
            let own: Vec<String> = lines[b].split_whitespace().map(String::from).collect();
            if !own.is_empty() {
                lines[b] = lines[b].replacen(random.pick(&own), new, 1);
            }
        }
        5 => {
            let numbers =
                ["0", "1", "-1", "4", "64", "4096", "1099511627776", "9223372036854775807", "99999999999999999999"];
            let digits: Vec<usize> = text.char_indices().filter(|(_, c)| c.is_ascii_digit()).map(|(i, _)| i).collect();
            let start = *random.pick(&digits);
            let end = text[start..].find(|c: char| !c.is_ascii_digit()).map_or(text.len(), |n| start + n);
            return format!("{}{}{}", &text[..start], random.pick(&numbers), &text[end..]);
        }
        _ => {
            let mut bytes = text.as_bytes().to_vec();
            mutate_bytes(random, &mut bytes);
            return String::from_utf8_lossy(&bytes).into_owned();
        }
    }
    lines.join("\n") + "\n"
}
