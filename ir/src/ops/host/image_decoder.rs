mod jpeg;

use super::{DType, Datum, Dim, EvalError, OpSpec, Operands, TypeError, ValueType};
use crate::ops::reading::{invalid, moves_data, tensor};
use crate::tensor::Tensor;
use crate::types::TensorType;
use crate::{attr_enum, op};
use image::RgbImage;

attr_enum! {
    /// What the numbers of a pixel are.
    pub enum PixelFormat {
        /// Red, green, blue.
        Rgb = "rgb",
        /// Blue, green, red.
        Bgr = "bgr",
        /// Luminance by ITU-R 601-2: `0.299 R + 0.587 G + 0.114 B`.
        Grayscale = "grayscale",
    }
}

op! {
    /// `image_decoder(bytes) {format}`: ONNX ImageDecoder: the pixels `u8[H, W, C]` of an encoded image `u8[N]`: BMP, JPEG, JPEG
    /// 2000, PNG, PNM, TIFF or WebP, JPEG to the pixels of libjpeg. Bytes that are none of these give an empty image, `[0, 0, C]`.
    pub struct ImageDecoder { format: PixelFormat }
}

impl OpSpec for ImageDecoder {
    const NAME: &'static str = "image_decoder";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: u8[N]) { %y = image_decoder(%x) {format = rgb} return %y }",
        // Two grey pixels as PGM.
        "graph @g(%x: f32[N]) { %i = const [80, 53, 32, 50, 32, 49, 32, 50, 53, 53, 10, 7, 200] : u8[13] %a = image_decoder(%i) {format = bgr} %b = image_decoder(%i) {format = grayscale} return %a, %b }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        if operands.dtype(0)? != DType::U8 || operands.dims(0)?.is_some_and(|d| d.len() != 1) {
            return Err(operands.wrong(0, "an encoded image is a vector of u8"));
        }
        let dims = [operands.late_dim(), operands.late_dim(), Dim::from(self.channels())];
        Ok(vec![TensorType::new(DType::U8, dims).into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(operands, 0)?;
        if x.dtype() != DType::U8 {
            return Err(invalid("an encoded image is a vector of u8"));
        }
        let Some(image) = decode(x.bytes()) else {
            return Ok(vec![Tensor::zeros(DType::U8, &[0, 0, self.channels()])?.into()]);
        };
        let dims = [image.height() as usize, image.width() as usize, self.channels()];
        let pixels: Vec<u8> = match self.format {
            PixelFormat::Rgb => image.into_raw(),
            PixelFormat::Bgr => image.pixels().flat_map(|p| [p[2], p[1], p[0]]).collect(),
            PixelFormat::Grayscale => image.pixels().map(|p| luminance(p.0)).collect(),
        };
        Ok(vec![Tensor::from_bytes(DType::U8, &dims, &pixels)?.into()])
    }

    moves_data! {}
}

impl ImageDecoder {
    fn channels(&self) -> usize {
        match self.format {
            PixelFormat::Rgb | PixelFormat::Bgr => 3,
            PixelFormat::Grayscale => 1,
        }
    }
}

/// ITU-R 601-2 in fixed point, rounded.
fn luminance([r, g, b]: [u8; 3]) -> u8 {
    ((19595 * u32::from(r) + 38470 * u32::from(g) + 7471 * u32::from(b) + (1 << 15)) >> 16) as u8
}

/// The image in whichever of the formats it is.
fn decode(bytes: &[u8]) -> Option<RgbImage> {
    match bytes {
        [0, 0, 0, 12, b'j', b'P', ..] | [0xff, 0x4f, 0xff, 0x51, ..] => jpeg2000(bytes),
        [0xff, 0xd8, ..] => {
            let pixels = jpeg::decode(bytes)?;
            RgbImage::from_raw(pixels.width as u32, pixels.height as u32, pixels.rgb)
        }
        _ => Some(image::load_from_memory(bytes).ok()?.into_rgb8()),
    }
}

fn jpeg2000(bytes: &[u8]) -> Option<RgbImage> {
    use hayro_jpeg2000::{ColorSpace, DecoderContext, Image};
    let image = Image::new(bytes, &Default::default()).ok()?;
    let (width, height, alpha) = (image.width(), image.height(), usize::from(image.has_alpha()));
    let channels = match image.color_space() {
        ColorSpace::Gray => 1,
        ColorSpace::RGB => 3,
        _ => return None,
    };
    let mut context = DecoderContext::default();
    let pixels = image.decode(&mut context).ok()?.data_u8();
    let rgb = pixels.chunks_exact(channels + alpha).flat_map(|p| if channels == 1 { [p[0]; 3] } else { [p[0], p[1], p[2]] });
    RgbImage::from_raw(width, height, rgb.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels(bytes: &[u8]) -> Tensor {
        let x = Tensor::from_slice(&[bytes.len()], bytes).unwrap().into();
        let y = ImageDecoder { format: PixelFormat::Rgb }.eval(&[&x]).unwrap();
        y[0].as_tensor().unwrap().clone()
    }

    const IMAGES: [(&[u8], &[u8]); 2] = [
        (
            include_bytes!("../../../tests/images/baseline_422.jpg"),
            include_bytes!("../../../tests/images/baseline_422.ppm"),
        ),
        (
            include_bytes!("../../../tests/images/progressive_420.jpg"),
            include_bytes!("../../../tests/images/progressive_420.ppm"),
        ),
    ];

    #[test]
    fn jpeg_gives_the_pixels_of_libjpeg() {
        for (jpeg, ppm) in IMAGES {
            assert_eq!(pixels(ppm).dims(), [13, 17, 3]);
            assert!(pixels(jpeg) == pixels(ppm));
        }
    }

    #[test]
    fn damaged_images_are_decoded_or_empty() {
        for (jpeg, _) in IMAGES {
            for cut in 0..jpeg.len() {
                pixels(&jpeg[..cut]);
                let mut flipped = jpeg.to_vec();
                flipped[cut] ^= 0x55;
                pixels(&flipped);
            }
        }
        assert_eq!(pixels(b"no image").dims(), [0, 0, 3]);
    }
}
