//! JPEG (ITU T.81): baseline, extended and progressive Huffman coding with 8 bits, to the very pixels of libjpeg.
//!
//! ONNX's ImageDecoder asks for libjpeg's upsampling of colours, and its last bit depends on the integer transform too, which
//! the decoders on crates.io do not share. This file reads the segments and the coefficients, `pixels` makes the image of them.

mod pixels;

/// Pixels as R, G, B.
pub struct Pixels {
    pub width: usize,
    pub height: usize,
    pub rgb: Vec<u8>,
}

/// Images larger than this are not decoded.
const MOST_PIXELS: usize = 1 << 26;

/// Where coefficient k of the stream stands in its block.
const ZIGZAG: [usize; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28, 35,
    42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// Coefficients of 8 by 8 elements, row-major.
type Block = [i32; 64];

/// One colour's plane of blocks.
struct Component {
    id: u8,
    /// Sampling factors.
    h: usize,
    v: usize,
    /// Which quantisation table.
    table: usize,
    quantisation: Option<Block>,
    /// Elements that are part of the image.
    width: usize,
    height: usize,
    /// Blocks in a row, and rows, to whole units of the interleaved stream.
    columns: usize,
    rows: usize,
    blocks: Vec<Block>,
    /// Which Huffman tables the scan uses, and the last DC coefficient.
    dc: usize,
    ac: usize,
    last: i32,
}

#[derive(Default)]
struct Decoder {
    width: usize,
    height: usize,
    progressive: bool,
    components: Vec<Component>,
    quantisation: [Option<Block>; 4],
    dc: [Option<Huffman>; 4],
    ac: [Option<Huffman>; 4],
    restart: usize,
    jfif: bool,
    adobe: Option<u8>,
}

/// The image, unless the bytes are none of the kinds above.
pub fn decode(bytes: &[u8]) -> Option<Pixels> {
    let mut decoder = Decoder::default();
    let mut at = 2;
    loop {
        // Fill bytes may precede a marker; data cut off in the middle of an image ends it.
        while at < bytes.len() && (bytes[at] != 0xff || matches!(bytes.get(at + 1), Some(0 | 0xff))) {
            at += 1;
        }
        let Some(marker) = bytes.get(at + 1).copied().filter(|m| *m != 0xd9) else { break };
        at += 2;
        if matches!(marker, 0x01 | 0xd0..=0xd8) {
            continue;
        }
        let length = usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
        let segment = bytes.get(at + 2..at + length)?;
        at += length;
        match marker {
            0xc0..=0xc2 => decoder.frame(segment, marker == 0xc2)?,
            0xc4 => decoder.huffman(segment)?,
            0xc3 | 0xc5..=0xc7 | 0xc9..=0xcf => return None,
            0xda => at += decoder.scan(segment, &bytes[at..])?,
            0xdb => decoder.quantisation(segment)?,
            0xdd => decoder.restart = usize::from(u16::from_be_bytes([*segment.first()?, *segment.get(1)?])),
            0xe0 => decoder.jfif |= segment.starts_with(b"JFIF\0"),
            0xee if segment.starts_with(b"Adobe") => decoder.adobe = segment.get(11).copied(),
            _ => {}
        }
    }
    pixels::image(&decoder)
}

impl Decoder {
    fn quantisation(&mut self, mut s: &[u8]) -> Option<()> {
        while let Some((head, rest)) = s.split_first() {
            let wide = head >> 4 != 0;
            let size = if wide { 128 } else { 64 };
            let values = rest.get(..size)?;
            let mut table = [0; 64];
            for (k, at) in ZIGZAG.iter().enumerate() {
                table[*at] = match wide {
                    true => i32::from(u16::from_be_bytes([values[2 * k], values[2 * k + 1]])),
                    false => i32::from(values[k]),
                };
            }
            *self.quantisation.get_mut(usize::from(head & 15))? = Some(table);
            s = &rest[size..];
        }
        Some(())
    }

    fn huffman(&mut self, mut s: &[u8]) -> Option<()> {
        while let Some((head, rest)) = s.split_first() {
            let counts = rest.get(..16)?;
            let total: usize = counts.iter().map(|n| usize::from(*n)).sum();
            let values = rest.get(16..16 + total)?;
            let tables = if head >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            *tables.get_mut(usize::from(head & 15))? = Some(Huffman::new(counts, values));
            s = &rest[16 + total..];
        }
        Some(())
    }

    fn frame(&mut self, s: &[u8], progressive: bool) -> Option<()> {
        let &[8, h1, h0, w1, w0, count, ref list @ ..] = s else { return None };
        let (height, width) = (usize::from(u16::from_be_bytes([h1, h0])), usize::from(u16::from_be_bytes([w1, w0])));
        let count = usize::from(count);
        if !self.components.is_empty() || width * height == 0 || width * height > MOST_PIXELS {
            return None;
        }
        if !matches!(count, 1 | 3) || list.len() != 3 * count {
            return None;
        }
        let factors: Vec<(usize, usize)> =
            list.chunks_exact(3).map(|c| (usize::from(c[1] >> 4), usize::from(c[1] & 15))).collect();
        if factors.iter().any(|(h, v)| !(1..=4).contains(h) || !(1..=4).contains(v)) {
            return None;
        }
        let most_h = factors.iter().map(|f| f.0).max()?;
        let most_v = factors.iter().map(|f| f.1).max()?;
        for (c, (h, v)) in list.chunks_exact(3).zip(factors) {
            let (columns, rows) = (width.div_ceil(8 * most_h) * h, height.div_ceil(8 * most_v) * v);
            self.components.push(Component {
                id: c[0],
                h,
                v,
                table: usize::from(c[2] & 3),
                quantisation: None,
                width: (width * h).div_ceil(most_h),
                height: (height * v).div_ceil(most_v),
                columns,
                rows,
                blocks: vec![[0; 64]; columns * rows],
                dc: 0,
                ac: 0,
                last: 0,
            });
        }
        (self.width, self.height, self.progressive) = (width, height, progressive);
        Some(())
    }

    /// Reads one scan from `data`: how many bytes it took.
    fn scan(&mut self, s: &[u8], data: &[u8]) -> Option<usize> {
        let (count, rest) = s.split_first()?;
        let count = usize::from(*count);
        let (list, last) = rest.split_at_checked(2 * count)?;
        let &[first, end, approximation] = last else { return None };
        let mut members = vec![];
        for c in list.chunks_exact(2) {
            let i = self.components.iter().position(|known| known.id == c[0]).filter(|i| !members.contains(i))?;
            let component = &mut self.components[i];
            (component.dc, component.ac) = (usize::from(c[1] >> 4 & 3), usize::from(c[1] & 3));
            // The table that is valid at a component's first scan.
            if component.quantisation.is_none() {
                component.quantisation = self.quantisation[component.table];
            }
            members.push(i);
        }
        let band = match self.progressive {
            true => Band { first: first.into(), last: end.into(), high: approximation >> 4, low: approximation & 15 },
            false => Band { first: 0, last: 63, high: 0, low: 0 },
        };
        if members.is_empty() || band.last > 63 || band.first > band.last || band.low > 13 {
            return None;
        }
        if self.progressive && (band.first == 0) != (band.last == 0) || band.first > 0 && members.len() > 1 {
            return None;
        }
        let mut bits = Bits { data, at: 0, held: 0, count: 0, run: 0 };
        let (units, across) = self.units(&members);
        for unit in 0..units {
            if self.restart > 0 && unit > 0 && unit % self.restart == 0 {
                bits.restart();
                self.components.iter_mut().for_each(|c| c.last = 0);
            }
            if members.len() == 1 {
                let c = &self.components[members[0]];
                self.block(members[0], unit / across * c.columns + unit % across, &band, &mut bits)?;
                continue;
            }
            for &i in &members {
                let (h, v, columns) = (self.components[i].h, self.components[i].v, self.components[i].columns);
                for (y, x) in (0..v).flat_map(|y| (0..h).map(move |x| (y, x))) {
                    let at = (unit / across * v + y) * columns + unit % across * h + x;
                    self.block(i, at, &band, &mut bits)?;
                }
            }
        }
        self.components.iter_mut().for_each(|c| c.last = 0);
        Some(bits.at)
    }

    /// How many units a scan has, and how many in a row. A single component's are its blocks inside the image.
    fn units(&self, members: &[usize]) -> (usize, usize) {
        let c = &self.components[members[0]];
        let (across, down) = match members {
            [_] => (c.width.div_ceil(8), c.height.div_ceil(8)),
            _ => (c.columns / c.h, c.rows / c.v),
        };
        (across * down, across)
    }

    fn block(&mut self, i: usize, at: usize, band: &Band, bits: &mut Bits<'_>) -> Option<()> {
        let c = &mut self.components[i];
        let block = &mut c.blocks[at];
        if band.first == 0 {
            if band.high > 0 {
                block[0] |= i32::from(bits.bit()) << band.low;
            } else {
                let size = bits.symbol(self.dc[c.dc].as_ref()?)?;
                c.last = c.last.wrapping_add(bits.signed(size.min(16)));
                block[0] = c.last.wrapping_shl(band.low.into());
            }
        }
        if band.last == 0 {
            return Some(());
        }
        let table = self.ac[c.ac].as_ref()?;
        match (self.progressive, band.high) {
            (true, 1..) => bits.refine(block, table, band),
            _ => bits.coefficients(block, table, band),
        }
    }
}

/// Which coefficients of a block a scan holds, and which of their bits: down to `low`, those down to `high` being there.
struct Band {
    first: usize,
    last: usize,
    high: u8,
    low: u8,
}

/// A canonical Huffman code.
struct Huffman {
    /// For each length the first code, the first code of that length that is none, and where its values begin.
    lengths: [(i32, i32, usize); 16],
    values: Vec<u8>,
}

impl Huffman {
    fn new(counts: &[u8], values: &[u8]) -> Huffman {
        let (mut code, mut begin) = (0, 0);
        let mut lengths = [(0, 0, 0); 16];
        for (length, count) in lengths.iter_mut().zip(counts) {
            *length = (code, code + i32::from(*count), begin);
            begin += usize::from(*count);
            code = (code + i32::from(*count)) << 1;
        }
        Huffman { lengths, values: values.to_vec() }
    }
}

/// The entropy-coded bits of a scan. Behind its end there are zeros.
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    held: u32,
    count: u32,
    /// How many further blocks hold nothing new.
    run: u32,
}

impl Bits<'_> {
    fn bit(&mut self) -> bool {
        if self.count == 0 {
            let byte = match (self.data.get(self.at), self.data.get(self.at + 1)) {
                (Some(0xff), Some(0)) => {
                    self.at += 2;
                    0xff
                }
                // A marker, which stays.
                (Some(0xff), _) | (None, _) => 0,
                (Some(byte), _) => {
                    self.at += 1;
                    *byte
                }
            };
            (self.held, self.count) = (byte.into(), 8);
        }
        self.count -= 1;
        self.held >> self.count & 1 == 1
    }

    fn bits(&mut self, n: u8) -> i32 {
        (0..n).fold(0, |v, _| v << 1 | i32::from(self.bit()))
    }

    /// `size` bits as a number whose first bit says that it is positive.
    fn signed(&mut self, size: u8) -> i32 {
        let v = self.bits(size);
        if size > 0 && v < 1 << (size - 1) { v - (1 << size) + 1 } else { v }
    }

    fn symbol(&mut self, table: &Huffman) -> Option<u8> {
        let mut code = 0;
        for (first, end, begin) in &table.lengths {
            code = code << 1 | i32::from(self.bit());
            if code < *end {
                return table.values.get(begin + usize::try_from(code - first).ok()?).copied();
            }
        }
        None
    }

    /// Skips to behind the restart marker.
    fn restart(&mut self) {
        (self.count, self.run) = (0, 0);
        while self.at + 1 < self.data.len() {
            match (self.data[self.at], self.data[self.at + 1]) {
                (0xff, 0xd0..=0xd7) => {
                    self.at += 2;
                    return;
                }
                (0xff, 1..=0xfe) => return,
                _ => self.at += 1,
            }
        }
    }

    /// Coefficients of a band for the first time.
    fn coefficients(&mut self, block: &mut Block, table: &Huffman, band: &Band) -> Option<()> {
        if self.run > 0 {
            self.run -= 1;
            return Some(());
        }
        let mut k = band.first.max(1);
        while k <= band.last {
            let symbol = self.symbol(table)?;
            let (skip, size) = (symbol >> 4, symbol & 15);
            match (skip, size) {
                (15, 0) => k += 16,
                (_, 0) => {
                    self.run = (1 << skip) - 1 + self.bits(skip) as u32;
                    break;
                }
                _ => {
                    k += usize::from(skip);
                    *block.get_mut(*ZIGZAG.get(k)?)? = self.signed(size) << band.low;
                    k += 1;
                }
            }
        }
        Some(())
    }

    /// One more bit of a band's coefficients.
    fn refine(&mut self, block: &mut Block, table: &Huffman, band: &Band) -> Option<()> {
        let one = 1 << band.low;
        let mut k = band.first;
        while self.run == 0 && k <= band.last {
            let symbol = self.symbol(table)?;
            let (mut skip, size) = (symbol >> 4, symbol & 15);
            if size == 0 && skip < 15 {
                self.run = (1 << skip) + self.bits(skip) as u32;
                break;
            }
            let new = match (size, size > 0 && self.bit()) {
                (0, _) => 0,
                (_, true) => one,
                (_, false) => -one,
            };
            // Up to the zero that becomes `new`, past `skip` others.
            while k <= band.last {
                let c = &mut block[ZIGZAG[k]];
                k += 1;
                if *c != 0 {
                    self.correct(c, one);
                } else if skip == 0 {
                    *c = new;
                    break;
                } else {
                    skip -= 1;
                }
            }
        }
        if self.run > 0 {
            ZIGZAG[k..=band.last].iter().for_each(|at| self.correct(&mut block[*at], one));
            self.run -= 1;
        }
        Some(())
    }

    /// The next bit of a coefficient that is known not to be 0.
    fn correct(&mut self, c: &mut i32, one: i32) {
        if *c != 0 && self.bit() && *c & one == 0 {
            *c += if *c > 0 { one } else { -one };
        }
    }
}
