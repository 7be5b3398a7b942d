//! ONNX's numbers for element types (`TensorProto.DataType`), to the newest; files carry them as plain integers.

macro_rules! data_types {
    ($($constant:ident = $number:literal, $name:literal;)*) => {
        $(#[doc = concat!("`", $name, "`.")] pub const $constant: i32 = $number;)*

        /// ONNX's name of the element type with this number, such as `float16`; `None` where there is none.
        pub fn name(number: i32) -> Option<&'static str> {
            match number {
                $($number => Some($name),)*
                _ => None,
            }
        }
    };
}

data_types! {
    UNDEFINED = 0, "undefined";
    FLOAT = 1, "float";
    UINT8 = 2, "uint8";
    INT8 = 3, "int8";
    UINT16 = 4, "uint16";
    INT16 = 5, "int16";
    INT32 = 6, "int32";
    INT64 = 7, "int64";
    STRING = 8, "string";
    BOOL = 9, "bool";
    FLOAT16 = 10, "float16";
    DOUBLE = 11, "double";
    UINT32 = 12, "uint32";
    UINT64 = 13, "uint64";
    COMPLEX64 = 14, "complex64";
    COMPLEX128 = 15, "complex128";
    BFLOAT16 = 16, "bfloat16";
    FLOAT8E4M3FN = 17, "float8e4m3fn";
    FLOAT8E4M3FNUZ = 18, "float8e4m3fnuz";
    FLOAT8E5M2 = 19, "float8e5m2";
    FLOAT8E5M2FNUZ = 20, "float8e5m2fnuz";
    UINT4 = 21, "uint4";
    INT4 = 22, "int4";
    FLOAT4E2M1 = 23, "float4e2m1";
    FLOAT8E8M0 = 24, "float8e8m0";
    UINT2 = 25, "uint2";
    INT2 = 26, "int2";
    FLOAT6E2M3 = 27, "float6e2m3";
    FLOAT6E3M2 = 28, "float6e3m2";
}
