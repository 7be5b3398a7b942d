"""Writes the ONNX test cases of this folder: operators that ONNX's own suite does not test, with ONNX Runtime's answers.

    pip install onnx onnxruntime numpy
    python make_cases.py                 # all
    python make_cases.py ml_svm          # those whose name contains a text

A case is a folder with model.onnx and test_data_set_0/{input,output}_K.pb. Numbers come from seeds, so that a second run
writes the same bytes with the same versions of the packages.
"""

import json
import shutil
import sys
import zlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).parent
ML, MS = "ai.onnx.ml", "com.microsoft"
OPSETS = {"": 21, ML: 3, MS: 1}
CASES = {}
REFUSED = {}
ONLY = sys.argv[1] if len(sys.argv) > 1 else ""


class Weight:
    """An operand that is part of the model."""

    def __init__(self, value):
        self.value = value


class Map:
    """A map operand: {key: value} with the element types of both."""

    def __init__(self, entries, key, value):
        self.entries, self.key, self.value = entries, key, value


def group(function):
    """Registers a function that calls `case` for the cases of one operator."""
    CASES[function.__name__] = function
    return function


def rng(name):
    return np.random.default_rng(zlib.crc32(name.encode()))


def floats(r, *dims, dtype=np.float32, scale=1.0):
    return (r.standard_normal(dims) * scale).astype(dtype)


def value_type(value):
    if isinstance(value, Map):
        return helper.make_map_type_proto(value.key, helper.make_tensor_type_proto(value.value, []))
    element = TensorProto.STRING if value.dtype == object else helper.np_dtype_to_tensor_dtype(value.dtype)
    return helper.make_tensor_type_proto(element, value.shape)


def parse_type(text):
    """The type that ONNX Runtime writes as `seq(map(int64,tensor(float)))`."""
    elements = {"float": 1, "double": 11, "float16": 10, "bfloat16": 16, "int64": 7, "int32": 6, "string": 8, "uint8": 2}
    elements |= {"int8": 3, "bool": 9}
    word, inner = text[:-1].split("(", 1)
    if word == "tensor":
        return helper.make_tensor_type_proto(elements[inner], None)
    if word == "seq":
        return helper.make_sequence_type_proto(parse_type(inner))
    key, value = inner.split(",", 1)
    return helper.make_map_type_proto(elements[key], parse_type(value))


def message(value):
    """The protobuf message of a value."""
    if isinstance(value, Map):
        value = value.entries
    if isinstance(value, dict):
        result = onnx.MapProto()
        keys = list(value)
        if isinstance(keys[0], str):
            result.key_type = TensorProto.STRING
            result.string_keys.extend(k.encode() for k in keys)
        else:
            result.key_type = TensorProto.INT64
            result.keys.extend(int(k) for k in keys)
        result.values.elem_type = onnx.SequenceProto.TENSOR
        for v in value.values():
            result.values.tensor_values.append(tensor(one(v)))
        return result
    if isinstance(value, list):
        result = onnx.SequenceProto()
        result.elem_type = onnx.SequenceProto.MAP
        result.map_values.extend(message(v) for v in value)
        return result
    return tensor(value)


def one(value):
    if isinstance(value, str):
        return np.array(value, dtype=object)
    return np.array(value, dtype=np.int64 if isinstance(value, int) else np.float32)


def tensor(value, name=""):
    return numpy_helper.from_array(np.asarray(value), name)


def case(name, *rest, **more):
    """`write_case`, or a line that says why ONNX Runtime does not run it."""
    if ONLY not in name:
        return
    try:
        write_case(name, *rest, **more)
    except Exception as error:
        REFUSED[name] = str(error).strip().splitlines()[0]


def write_case(name, op, operands, results=1, domain="", version=None, dims=None, like=None, answers=None, types=None,
               within=None, **attributes):
    """Runs one node in ONNX Runtime and writes the case.

    `operands` are arrays, `Weight`s, `Map`s or None; `results` a count, or a list with "" for those that are not wanted.
    `version` is the domain's. `dims` gives inputs symbolic dimensions by position. Where ONNX Runtime's CPU provider does not
    run this form, `like` is (operator, operands, attributes) of one that it runs and that means the same, and `answers` are results
    worked out here. `types` gives results types that it does not infer. `within` is how far results may be from these,
    relative and absolute, one number or two; otherwise the test says it.
    """
    if answers is None:
        answers, kinds = run(*(like or (op, operands, attributes)), results, domain, version, types)
    else:
        kinds = [value_type(a) for a in answers]
    model = build(name, op, operands, results, domain, version, dims, attributes)
    for info, kind in zip(model.graph.output, kinds):
        info.type.CopyFrom(kind)
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "test_data_set_0").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    if within:
        relative, absolute = within if isinstance(within, tuple) else (within, within)
        (folder / "case.json").write_text(json.dumps({"rtol": relative, "atol": absolute}) + "\n")
    values = [o for o in operands if o is not None and not isinstance(o, Weight)]
    for word, listed in [("input", values), ("output", answers)]:
        for i, value in enumerate(listed):
            file = folder / "test_data_set_0" / f"{word}_{i}.pb"
            file.write_bytes(message(value).SerializeToString(deterministic=True))


def build(name, op, operands, results, domain, version, dims, attributes):
    """A model of one node."""
    names = [f"x{i}" if o is not None else "" for i, o in enumerate(operands)]
    outputs = [f"y{i}" for i in range(results)] if isinstance(results, int) else results
    node = helper.make_node(op, names, outputs, name=op.lower(), domain=domain, **attributes)
    initializers = [tensor(o.value, n) for o, n in zip(operands, names) if isinstance(o, Weight)]
    inputs = []
    for i, (o, n) in enumerate(zip(operands, names)):
        if o is None or isinstance(o, Weight):
            continue
        info = onnx.ValueInfoProto(name=n, type=value_type(o))
        for d, symbol in zip(info.type.tensor_type.shape.dim, (dims or {}).get(i, [])):
            if isinstance(symbol, str):
                d.dim_param = symbol
        inputs.append(info)
    infos = [onnx.ValueInfoProto(name=o) for o in outputs if o]
    graph = helper.make_graph([node], name, inputs, infos, initializers)
    domains = {"": OPSETS[""]} | ({domain: OPSETS.get(domain, 1)} if domain else {})
    domains |= {domain: version} if version else {}
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(d, v) for d, v in domains.items()], ir_version=10)


def run(op, operands, attributes, results, domain, version, types):
    """ONNX Runtime's results and their types."""
    model = build("case", op, operands, results, domain, version, None, attributes)
    for info in model.graph.output:
        if info.name in (types or {}):
            info.type.CopyFrom(helper.make_tensor_type_proto(types[info.name], None))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {f"x{i}": o.entries if isinstance(o, Map) else o for i, o in enumerate(operands)
             if o is not None and not isinstance(o, Weight)}
    kinds = [parse_type(found.type) for found in session.get_outputs()]
    return session.run([o.name for o in session.get_outputs()], feeds), kinds


# ---- operators of ONNX without a test ----


@group
def pooling():
    r = rng("pooling")
    x = floats(r, 2, 3, 4, 5)
    for p in (1, 2, 3):
        case(f"global_lp_pool_p{p}", "GlobalLpPool", [x], p=p)
    case("global_lp_pool_1d", "GlobalLpPool", [floats(r, 2, 3, 7)])
    rois = np.array([[0, 0, 0, 4, 3], [1, 1, 1, 3, 2], [0, 2, 0, 2, 0], [1, 0.6, 0.4, 3.5, 2.5]], np.float32)
    case("max_roi_pool", "MaxRoiPool", [x, rois], pooled_shape=[2, 3])
    case("max_roi_pool_scaled", "MaxRoiPool", [x, rois * np.array([1, 4, 4, 4, 4], np.float32)], pooled_shape=[3, 2], spatial_scale=0.25)
    outside = np.array([[0, -2, -2, 9, 9], [1, 6, 6, 8, 8]], np.float32)
    case("max_roi_pool_outside", "MaxRoiPool", [x, outside], pooled_shape=[2, 2])


@group
def random():
    """Models without answers: a test looks at what they draw."""
    shape = [200, 50]
    normal, uniform = {"mean": 2.0, "scale": 3.0}, {"low": -1.0, "high": 4.0}
    kinds = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "float16": TensorProto.FLOAT16,
             "int64": TensorProto.INT64, "int32": TensorProto.INT32}
    for word in ("float32", "float64", "float16"):
        drawing(f"random_normal_{word}", "RandomNormal", [], kinds[word], shape=shape, dtype=kinds[word], **normal)
    for word in ("float32", "float64"):
        drawing(f"random_uniform_{word}", "RandomUniform", [], kinds[word], shape=shape, dtype=kinds[word], **uniform)
    drawing("random_normal_other_name", "RandomNormal", [], TensorProto.FLOAT, shape=shape, **normal)
    drawing("random_normal_like", "RandomNormalLike", [np.zeros((200, 50), np.float32)], TensorProto.FLOAT, **normal)
    drawing("random_normal_like_int64_float64", "RandomNormalLike", [np.zeros((200, 50), np.int64)], TensorProto.DOUBLE,
            dtype=TensorProto.DOUBLE, **normal)
    drawing("random_uniform_like", "RandomUniformLike", [np.zeros((200, 50), np.float32)], TensorProto.FLOAT, **uniform)
    for word in ("int32", "int64"):
        drawing(f"random_multinomial_{word}", "Multinomial", [np.zeros((2, 4), np.float32)], kinds[word], dtype=kinds[word],
                sample_size=10000)


def drawing(name, op, operands, kind, **attributes):
    if ONLY not in name:
        return
    model = build(name, op, operands, 1, "", None, None, attributes)
    model.graph.node[0].name = name
    model.graph.output[0].type.CopyFrom(helper.make_tensor_type_proto(kind, None))
    (HERE / name).mkdir(exist_ok=True)
    (HERE / name / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))


# ---- ai.onnx.ml ----


@group
def ml_maps():
    numbers = Map({1: 0.5, 3: -2.25, 0: 7.0}, TensorProto.INT64, TensorProto.FLOAT)
    texts = Map({0: "1.5", 2: "-3", 5: "0.25"}, TensorProto.INT64, TensorProto.STRING)
    for to in ("TO_FLOAT", "TO_INT64", "TO_STRING"):
        case(f"ml_cast_map_float_{to.lower()}", "CastMap", [numbers], domain=ML, cast_to=to)
        case(f"ml_cast_map_sparse_{to.lower()}", "CastMap", [numbers], domain=ML, cast_to=to, map_form="SPARSE", max_map=6)
    # ONNX Runtime's Python interface does not take maps to texts or from texts to integers.
    case("ml_cast_map_string_to_float", "CastMap", [texts], domain=ML, cast_to="TO_FLOAT",
         answers=[np.array([[1.5, -3, 0.25]], np.float32)])
    case("ml_cast_map_string_to_string", "CastMap", [texts], domain=ML, cast_to="TO_STRING",
         answers=[np.array([["1.5", "-3", "0.25"]], dtype=object)])
    case("ml_cast_map_string_to_int64", "CastMap", [Map({4: "-3", 1: "12"}, TensorProto.INT64, TensorProto.STRING)],
         domain=ML, cast_to="TO_INT64", answers=[np.array([[12, -3]], np.int64)])
    case("ml_dict_vectorizer_string_int64", "DictVectorizer",
         [Map({"x": 5, "z": -7}, TensorProto.STRING, TensorProto.INT64)], domain=ML, string_vocabulary=["z", "y", "x"],
         answers=[np.array([[-7, 0, 5]], np.int64)])
    case("ml_dict_vectorizer_int64_string", "DictVectorizer", [texts], domain=ML, int64_vocabulary=[5, 4, 0],
         answers=[np.array([["0.25", "", "1.5"]], dtype=object)])
    strings = Map({"b": 0.5, "d": -2.0, "a": 3.0}, TensorProto.STRING, TensorProto.FLOAT)
    case("ml_dict_vectorizer_string_float", "DictVectorizer", [strings], domain=ML, string_vocabulary=["a", "b", "c", "d"])
    case("ml_dict_vectorizer_int64_float", "DictVectorizer", [numbers], domain=ML, int64_vocabulary=[3, 2, 1])
    r = rng("zip_map")
    case("ml_zip_map_int64", "ZipMap", [floats(r, 3, 2)], domain=ML, classlabels_int64s=[10, 20])
    case("ml_zip_map_string", "ZipMap", [floats(r, 2, 3)], domain=ML, classlabels_strings=["one", "two", "three"])
    case("ml_zip_map_row", "ZipMap", [floats(r, 3)], domain=ML, classlabels_int64s=[3, 1, 2])


@group
def ml_categories():
    texts = np.array([["cat", "dog"], ["bird", "cat"]], dtype=object)
    pairs = {"cats_int64s": [7, 8, 9], "cats_strings": ["cat", "dog", "cow"]}
    case("ml_category_mapper_to_int64", "CategoryMapper", [texts], domain=ML, default_int64=-5, **pairs)
    case("ml_category_mapper_to_string", "CategoryMapper", [np.array([9, 1, 7], np.int64)], domain=ML,
         default_string="none", **pairs)
    case("ml_category_mapper_defaults", "CategoryMapper", [texts], domain=ML, **pairs)
    case("ml_one_hot_encoder_string", "OneHotEncoder", [texts], domain=ML, cats_strings=["dog", "cat"])
    for dtype in (np.int64, np.float32, np.float64):
        x = np.array([[3, 5, 4]], dtype)
        case(f"ml_one_hot_encoder_{np.dtype(dtype).name}", "OneHotEncoder", [x], domain=ML, cats_int64s=[5, 6, 3], zeros=1)
    case("ml_one_hot_encoder_fraction", "OneHotEncoder", [np.array([3.9, 5.0], np.float32)], domain=ML,
         cats_int64s=[5, 3], zeros=1)
    case("ml_one_hot_encoder_known", "OneHotEncoder", [np.array([3, 5], np.int64)], domain=ML, cats_int64s=[5, 3], zeros=0)
    case("ml_label_encoder_string_float", "LabelEncoder", [texts], domain=ML, keys_strings=["cat", "dog"],
         values_floats=[1.5, 2.5], default_float=-1.0)
    case("ml_label_encoder_float_string", "LabelEncoder", [np.array([1.5, np.nan, 2], np.float32)], domain=ML, version=4,
         keys_floats=[1.5, float("nan")], values_strings=["a", "nan"], default_string="other")
    case("ml_label_encoder_version_1", "LabelEncoder", [texts], domain=ML, version=1, classes_strings=["dog", "cat"],
         default_int64=-9)


@group
def ml_columns():
    r = rng("columns")
    x = floats(r, 4, 3)
    x[1, 2] = 0
    ints = r.integers(-3, 4, (4, 3)).astype(np.int64)
    case("ml_feature_vectorizer_float", "FeatureVectorizer", [x, floats(r, 4, 2)], domain=ML, inputdimensions=[3, 2])
    case("ml_feature_vectorizer_int64", "FeatureVectorizer", [ints, ints[:, :1]], domain=ML, inputdimensions=[3, 1])
    case("ml_feature_vectorizer_cut", "FeatureVectorizer", [x, floats(r, 4, 2)], domain=ML, inputdimensions=[2, 4])
    case("ml_feature_vectorizer_row", "FeatureVectorizer", [x[0], floats(r, 2)], domain=ML, inputdimensions=[3, 2])
    nan = x.copy()
    nan[0, 1] = nan[3, 0] = np.nan
    case("ml_imputer_nan", "Imputer", [nan], domain=ML, imputed_value_floats=[1.0, 2.0, 3.0],
         replaced_value_float=float("nan"))
    case("ml_imputer_one", "Imputer", [x], domain=ML, imputed_value_floats=[9.0], replaced_value_float=0.0)
    case("ml_imputer_int64", "Imputer", [ints], domain=ML, imputed_value_int64s=[7, 8, 9], replaced_value_int64=1)
    for norm in ("MAX", "L1", "L2"):
        case(f"ml_normalizer_{norm.lower()}", "Normalizer", [x], domain=ML, norm=norm)
        case(f"ml_normalizer_{norm.lower()}_int64", "Normalizer", [ints], domain=ML, norm=norm)
        case(f"ml_normalizer_{norm.lower()}_row", "Normalizer", [x[1]], domain=ML, norm=norm)
    negative = -np.abs(x)
    negative[2] = 0
    for norm in ("MAX", "L1", "L2"):
        case(f"ml_normalizer_{norm.lower()}_negative", "Normalizer", [negative], domain=ML, norm=norm)
    case("ml_scaler", "Scaler", [x], domain=ML, offset=[0.5, -1.0, 2.0], scale=[2.0, 0.25, -1.0])
    case("ml_scaler_one", "Scaler", [x], domain=ML, offset=[0.5], scale=[2.0])
    case("ml_scaler_int64", "Scaler", [ints], domain=ML, offset=[0.5, -1.0, 2.0], scale=[2.0, 0.25, -1.0])
    case("ml_binarizer", "Binarizer", [x], domain=ML, threshold=0.1)
    case("ml_array_feature_extractor", "ArrayFeatureExtractor", [x, np.array([2, 0], np.int64)], domain=ML)
    case("ml_array_feature_extractor_row", "ArrayFeatureExtractor", [x[0], np.array([2, 0, 2], np.int64)], domain=ML)


TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


@group
def ml_linear():
    r = rng("linear")
    x = floats(r, 5, 3)
    w, b = floats(r, 3, 3), floats(r, 3)
    for t in TRANSFORMS:
        # The argument of PROBIT is a probability.
        scale = 0.05 if t == "PROBIT" else 1.0
        offset = 0.3 if t == "PROBIT" else 0.0
        weights = dict(coefficients=(w * scale).ravel().tolist(), intercepts=(b * scale + offset).tolist())
        case(f"ml_linear_classifier_{t.lower()}", "LinearClassifier", [x], 2, domain=ML, post_transform=t,
             classlabels_ints=[4, 5, 6], **weights)
        case(f"ml_linear_regressor_{t.lower()}", "LinearRegressor", [x], domain=ML, post_transform=t, targets=3, **weights)
        if t == "PROBIT":  # ONNX Runtime fills only half of the result.
            continue
        single = dict(coefficients=w[0].tolist(), intercepts=[float(b[0])])
        case(f"ml_linear_classifier_binary_{t.lower()}", "LinearClassifier", [x], 2, domain=ML, post_transform=t,
             classlabels_ints=[3, 8], **single)
    single = dict(coefficients=w[0].tolist(), intercepts=[float(b[0])])
    case("ml_linear_classifier_strings", "LinearClassifier", [x], 2, domain=ML, classlabels_strings=["a", "b", "c"],
         coefficients=w.ravel().tolist(), intercepts=b.tolist(), post_transform="SOFTMAX")
    case("ml_linear_classifier_binary_strings", "LinearClassifier", [x], 2, domain=ML, classlabels_strings=["no", "yes"],
         post_transform="LOGISTIC", **single)
    case("ml_linear_classifier_two_rows", "LinearClassifier", [x], 2, domain=ML, classlabels_ints=[0, 1],
         coefficients=w[:2].ravel().tolist(), intercepts=b[:2].tolist(), multi_class=1, post_transform="LOGISTIC")
    case("ml_linear_classifier_row", "LinearClassifier", [x[0]], 2, domain=ML, classlabels_ints=[4, 5, 6],
         coefficients=w.ravel().tolist(), intercepts=b.tolist())
    for dtype in (np.int64, np.int32, np.float64):
        case(f"ml_linear_classifier_{np.dtype(dtype).name}", "LinearClassifier", [(x * 3).astype(dtype)], 2, domain=ML,
             classlabels_ints=[0, 1, 2], coefficients=w.ravel().tolist(), intercepts=b.tolist())
    case("ml_linear_regressor_plain", "LinearRegressor", [x], domain=ML, coefficients=w[0].tolist())


@group
def ml_svm():
    r = rng("svm")
    x = floats(r, 6, 3)
    kernels = {"LINEAR": [1.0, 0.0, 1.0], "POLY": [0.5, 1.0, 3.0], "RBF": [0.4, 0.0, 3.0], "SIGMOID": [0.3, 0.1, 3.0]}
    vectors = floats(r, 7, 3)
    for kernel, params in kernels.items():
        case(f"ml_svm_regressor_{kernel.lower()}", "SVMRegressor", [x], domain=ML, kernel_type=kernel, kernel_params=params,
             support_vectors=vectors.ravel().tolist(), coefficients=floats(r, 7).tolist(), rho=[0.25], n_supports=7)
        case(f"ml_svm_classifier_{kernel.lower()}", "SVMClassifier", [x], 2, domain=ML, kernel_type=kernel,
             kernel_params=params, support_vectors=vectors.ravel().tolist(), coefficients=floats(r, 2, 7).ravel().tolist(),
             rho=floats(r, 3).tolist(), vectors_per_class=[3, 2, 2], classlabels_ints=[0, 1, 2])
    case("ml_svm_regressor_one_class", "SVMRegressor", [x], domain=ML, kernel_type="RBF", kernel_params=[0.4, 0.0, 3.0],
         support_vectors=vectors.ravel().tolist(), coefficients=floats(r, 7).tolist(), rho=[0.1], n_supports=7, one_class=1)
    case("ml_svm_regressor_plain", "SVMRegressor", [x], domain=ML, kernel_type="LINEAR", kernel_params=[0.0, 0.0, 0.0], coefficients=floats(r, 3).tolist(),
         rho=[0.5])
    three = dict(kernel_type="RBF", kernel_params=[0.4, 0.0, 3.0], support_vectors=vectors.ravel().tolist(),
                 coefficients=floats(r, 2, 7).ravel().tolist(), rho=floats(r, 3).tolist(), vectors_per_class=[3, 2, 2])
    two = dict(kernel_type="RBF", kernel_params=[0.4, 0.0, 3.0], support_vectors=vectors.ravel().tolist(),
               coefficients=floats(r, 7).tolist(), rho=[0.05], vectors_per_class=[4, 3])
    probability = dict(prob_a=floats(r, 3).tolist(), prob_b=floats(r, 3, scale=0.2).tolist())
    case("ml_svm_classifier_probability", "SVMClassifier", [x], 2, domain=ML, classlabels_strings=["a", "b", "c"], **three,
         **probability)
    for t in TRANSFORMS:
        if t != "PROBIT":  # Its argument is a probability, which these scores are not.
            case(f"ml_svm_classifier_two_{t.lower()}", "SVMClassifier", [x], 2, domain=ML, classlabels_ints=[4, 9],
                 post_transform=t, **two)
            case(f"ml_svm_classifier_three_{t.lower()}", "SVMClassifier", [x], 2, domain=ML, classlabels_ints=[4, 9, 2],
                 post_transform=t, **three)
    case("ml_svm_classifier_two_probability", "SVMClassifier", [x], 2, domain=ML, classlabels_ints=[4, 9], prob_a=[-1.3],
         prob_b=[0.2], **two)
    positive = two | {"coefficients": np.abs(two["coefficients"]).tolist()}
    case("ml_svm_classifier_two_positive", "SVMClassifier", [x], 2, domain=ML, classlabels_strings=["n", "p"], **positive)
    case("ml_svm_classifier_plain", "SVMClassifier", [x], 2, domain=ML, classlabels_ints=[0, 1, 2], kernel_type="LINEAR",
         kernel_params=[0.0, 0.0, 0.0], coefficients=floats(r, 9).tolist(), rho=[0.2])
    case("ml_svm_classifier_int64", "SVMClassifier", [(x * 2).astype(np.int64)], 2, domain=ML, classlabels_ints=[4, 9, 2],
         **three)
    case("ml_svm_classifier_double", "SVMClassifier", [x.astype(np.float64)], 2, domain=ML, classlabels_ints=[4, 9, 2],
         **three)


@group
def ml_trees():
    r = rng("trees")
    x = floats(r, 6, 2)
    shape = dict(
        nodes_treeids=[0] * 5 + [1] * 3, nodes_nodeids=[0, 1, 2, 3, 4, 0, 1, 2],
        nodes_featureids=[0, 1, 0, 0, 0, 1, 0, 0], nodes_values=[0.0, -0.2, 0.0, 0.0, 0.0, 0.3, 0.0, 0.0],
        nodes_modes=["BRANCH_LEQ", "BRANCH_LEQ", "LEAF", "LEAF", "LEAF", "BRANCH_LT", "LEAF", "LEAF"],
        nodes_truenodeids=[1, 3, 0, 0, 0, 1, 0, 0], nodes_falsenodeids=[2, 4, 0, 0, 0, 2, 0, 0],
    )
    leaves = ([0, 0, 0, 1, 1], [2, 3, 4, 1, 2])
    for t in TRANSFORMS:
        for word, weights in [("positive", [0.1, 0.3, 0.2, 0.05, 0.25]), ("mixed", [-0.4, 0.3, 0.2, -0.1, 0.25])]:
            if t == "PROBIT":  # ONNX Runtime fills only half of the result.
                continue
            case(f"ml_tree_classifier_binary_{word}_{t.lower()}", "TreeEnsembleClassifier", [x], 2, domain=ML, **shape,
                 class_treeids=leaves[0], class_nodeids=leaves[1], class_ids=[0] * 5, class_weights=weights,
                 classlabels_int64s=[3, 7], post_transform=t)
        case(f"ml_tree_classifier_three_{t.lower()}", "TreeEnsembleClassifier", [x], 2, domain=ML, **shape,
             class_treeids=leaves[0], class_nodeids=leaves[1], class_ids=[0, 1, 2, 1, 0],
             class_weights=[0.2, 0.3, 0.25, 0.1, 0.15], classlabels_strings=["a", "b", "c"], post_transform=t)
    for f in ("SUM", "AVERAGE", "MIN", "MAX"):
        case(f"ml_tree_regressor_{f.lower()}", "TreeEnsembleRegressor", [x], domain=ML, **shape, target_treeids=leaves[0],
             target_nodeids=leaves[1], target_ids=[0, 0, 0, 1, 1], target_weights=[0.5, -1.0, 2.0, 0.25, 3.0], n_targets=2,
             aggregate_function=f, base_values=[0.5, -0.25])


# ---- com.microsoft: attention ----


def rotary_tables(rows, half):
    angle = np.arange(rows)[:, None] / 10.0 ** (np.arange(half) / max(half, 1))[None]
    return Weight(np.cos(angle).astype(np.float32)), Weight(np.sin(angle).astype(np.float32))


@group
def ms_group_query_attention():
    heads, kv = 4, 2

    def gqa(name, b, s, past=0, packed=False, rotary=False, lengths=None, bias=False, sinks=False, dtype=np.float32,
            positions=None, capacity=None, **attributes):
        r = rng(name)
        d = 16 if rotary else 8
        total = past + s
        lengths = lengths or [total] * b
        total = max(lengths)
        if packed:
            operands = [floats(r, b, s, (heads + 2 * kv) * d, dtype=dtype), None, None]
        else:
            operands = [floats(r, b, s, heads * d, dtype=dtype), floats(r, b, s, kv * d, dtype=dtype),
                        floats(r, b, s, kv * d, dtype=dtype)]
        rows = capacity or past
        operands += [floats(r, b, kv, rows, d, dtype=dtype), floats(r, b, kv, rows, d, dtype=dtype)]
        operands += [np.array(lengths, np.int32) - 1, np.array([total], np.int32)]
        if rotary:
            cos, sin = rotary_tables(32, d // 2)
            operands += [Weight(t.value.astype(dtype)) for t in (cos, sin)]
            attributes["do_rotary"] = 1
        operands += [None] * (12 - len(operands))
        if positions is not None:
            operands[9] = np.array(positions, np.int64)
        if bias:
            operands[10] = floats(r, 1, heads, s, total, dtype=dtype)
        if sinks:
            operands[11] = floats(r, heads, dtype=dtype)
        while operands[-1] is None:
            operands.pop()
        # ONNX Runtime computes half precision in half precision.
        within = 2e-3 if dtype == np.float16 else None
        case("ms_gqa_" + name, "GroupQueryAttention", operands, 3, domain=MS, num_heads=heads, kv_num_heads=kv, within=within,
             **attributes)

    gqa("prompt", 2, 5)
    gqa("prompt_rotary", 2, 5, rotary=True)
    gqa("prompt_rotary_interleaved", 1, 5, rotary=True, rotary_interleaved=1)
    gqa("prompt_packed", 2, 5, packed=True)
    gqa("prompt_packed_rotary", 2, 4, packed=True, rotary=True)
    gqa("prompt_window", 1, 6, local_window_size=3)
    gqa("prompt_softcap", 1, 5, softcap=1.5)
    gqa("prompt_scale", 1, 5, scale=0.1)
    gqa("prompt_smooth", 1, 5, smooth_softmax=1)
    gqa("prompt_sinks", 2, 5, sinks=True)
    gqa("prompt_bias", 2, 5, bias=True)
    gqa("prompt_half", 1, 5, rotary=True, dtype=np.float16)
    gqa("decode", 2, 1, past=6)
    gqa("decode_lengths", 2, 1, past=6, lengths=[7, 4])
    gqa("decode_rotary", 2, 1, past=6, rotary=True)
    gqa("decode_rotary_lengths", 2, 1, past=6, rotary=True, lengths=[3, 7])
    gqa("decode_window", 1, 1, past=6, local_window_size=4)
    gqa("decode_softcap_sinks", 1, 1, past=5, softcap=2.0, sinks=True)
    gqa("decode_bias", 1, 1, past=4, bias=True)
    gqa("decode_packed_rotary", 2, 1, past=3, packed=True, rotary=True)
    gqa("more_rows", 1, 3, past=4)
    gqa("more_rows_rotary", 1, 3, past=4, rotary=True)
    gqa("more_rows_packed", 1, 3, past=4, packed=True, rotary=True)
    gqa("more_rows_window", 1, 3, past=5, local_window_size=3)
    gqa("more_rows_softcap", 1, 3, past=4, softcap=1.0)
    gqa("more_rows_sinks", 1, 3, past=4, sinks=True)
    gqa("more_rows_bias", 1, 3, past=4, bias=True)
    gqa("positions", 1, 3, past=4, rotary=True, positions=[[9, 10, 11]])
    gqa("all_ways", 1, 2, past=4, causal=0)
    gqa("prompt_all_ways", 1, 4, causal=0)


@group
def ms_multi_head_attention():
    n, d, b = 2, 4, 2

    def mha(name, s=3, t=3, packed=None, bias=False, mask=None, extra=None, past=0, results=1, vd=None, **attributes):
        r = rng(name)
        vd = vd or d
        if packed == "qkv":
            operands = [floats(r, b, s, n, 3, d), None, None]
        elif packed == "kv":
            operands = [floats(r, b, s, n * d), floats(r, b, t, n, 2, d), None]
        elif packed == "heads":
            operands = [floats(r, b, s, n * d), floats(r, b, n, t, d), floats(r, b, n, t, vd)]
        else:
            operands = [floats(r, b, s, n * d), floats(r, b, t, n * d), floats(r, b, t, n * vd)]
        if packed in ("qkv", "kv"):
            whole = operands[0 if packed == "qkv" else 1]
            parts = [whole[:, :, :, i].reshape(*whole.shape[:2], -1).copy() for i in range(whole.shape[3])]
            apart = parts if packed == "qkv" else [operands[0]] + parts
        operands.append(floats(r, n * (2 * d + vd)) if bias else None)
        total = past + t
        masks = {"keys": lambda: np.array([[1] * total, [1] * (total - 1) + [0]], np.int32),
                 "lengths": lambda: np.array([total, total - 1], np.int32),
                 "rows": lambda: (r.random((b, s, total)) > 0.3).astype(np.int32)}
        operands.append(masks[mask]() if mask else None)
        operands.append(floats(r, *extra) if extra else None)
        operands += [floats(r, b, n, past, d), floats(r, b, n, past, vd)] if past else []
        while operands[-1] is None:
            operands.pop()
        if packed in ("qkv", "kv"):
            more = {k: v for k, v in attributes.items()} | {"num_heads": n}
            attributes["like"] = ("MultiHeadAttention", apart + operands[3:], more)
        case("ms_mha_" + name, "MultiHeadAttention", operands, results, domain=MS, num_heads=n, **attributes)

    mha("plain")
    mha("cross", s=2, t=5)
    mha("bias", bias=True)
    mha("wide_values", vd=6, bias=True)
    mha("packed_qkv", packed="qkv")
    mha("packed_qkv_bias", packed="qkv", bias=True)
    mha("packed_kv", packed="kv", s=2, t=4)
    mha("heads", packed="heads", s=2, t=4)
    mha("heads_bias", packed="heads", s=2, t=4, bias=True)
    mha("mask_keys", mask="keys")
    mha("mask_lengths", mask="lengths")
    mha("mask_rows", mask="rows")
    mha("mask_filter", mask="keys", mask_filter_value=-3.0)
    mha("attention_bias", extra=(1, n, 3, 3))
    mha("attention_bias_mask", extra=(b, 1, 3, 3), mask="keys")
    mha("past", past=4, s=2, t=2, results=3)
    mha("past_mask", past=2, s=2, t=2, results=3, mask="keys")
    mha("present", results=3)
    mha("causal", unidirectional=1)
    mha("causal_past", unidirectional=1, past=3, s=2, t=2, results=3)
    mha("scores", results=["y", "", "", "scores"], types={"scores": TensorProto.FLOAT})
    mha("scores_bias", results=["y", "", "", "scores"], types={"scores": TensorProto.FLOAT}, extra=(1, n, 3, 3), mask="keys")
    mha("scale", scale=0.2)


@group
def ms_attention():
    n, d, b, h = 2, 4, 2, 5

    def attention(name, s=3, mask=None, past=0, results=1, extra=None, bias=True, sizes=None, **attributes):
        r = rng("attention_" + name)
        widths = sizes or [n * d] * 3
        if sizes:
            attributes["qkv_hidden_sizes"] = sizes
        total = s + past
        masks = {"keys": lambda: np.array([[1] * total, [1] * (total - 1) + [0]], np.int32),
                 "rows": lambda: (r.random((b, s, total)) > 0.3).astype(np.int32),
                 "lengths": lambda: np.array([total, total - 1], np.int32),
                 "ends": lambda: np.array([total, total, 0, 1], np.int32)}
        operands = [floats(r, b, s, h), Weight(floats(r, h, sum(widths))), Weight(floats(r, sum(widths))) if bias else None]
        operands.append(masks[mask]() if mask else None)
        operands.append(floats(r, 2, b, n, past, d) if past else None)
        operands.append(floats(r, *extra) if extra else None)
        while operands[-1] is None:
            operands.pop()
        case("ms_attention_" + name, "Attention", operands, results, domain=MS, num_heads=n, **attributes)

    attention("plain")
    attention("no_bias", bias=False)
    attention("causal", unidirectional=1)
    attention("mask_keys", mask="keys")
    attention("mask_rows", mask="rows")
    attention("mask_lengths", mask="lengths")
    attention("mask_ends", mask="ends")
    attention("mask_causal", mask="keys", unidirectional=1)
    attention("mask_lengths_causal", mask="lengths", unidirectional=1)
    attention("past", past=2, results=2)
    attention("past_causal", past=2, results=2, unidirectional=1, mask="keys")
    attention("present", results=2)
    attention("extra", extra=(1, n, 3, 3))
    attention("sizes", sizes=[8, 8, 12])
    attention("scale", scale=0.3)


@group
def ms_quantised_attention():
    r = rng("qattention")
    b, s, h, n, d = 2, 3, 6, 2, 4
    x = r.integers(0, 256, (b, s, h)).astype(np.uint8)
    bias = Weight(floats(r, 3 * n * d))
    for dtype, low, high in ((np.int8, -60, 60), (np.uint8, 60, 200)):
        w = Weight(r.integers(low, high, (h, 3 * n * d)).astype(dtype))
        zero = Weight(np.array(0 if dtype == np.int8 else 128, dtype))
        case(f"ms_qattention_{np.dtype(dtype).name}", "QAttention",
             [x, w, bias, np.array(0.02, np.float32), Weight(np.array(0.01, np.float32)), None, np.array(120, np.uint8), zero],
             domain=MS, num_heads=n)
        case(f"ms_qattention_mask_{np.dtype(dtype).name}", "QAttention",
             [x, w, bias, np.array(0.02, np.float32), Weight(np.array(0.01, np.float32)),
              np.array([[1, 1, 1], [1, 1, 0]], np.int32), np.array(120, np.uint8), zero], domain=MS, num_heads=n)
        case(f"ms_qattention_past_{np.dtype(dtype).name}", "QAttention",
             [x, w, bias, np.array(0.02, np.float32), Weight(np.array(0.01, np.float32)), None, np.array(120, np.uint8), zero,
              floats(r, 2, b, n, 2, d)], 2, domain=MS, num_heads=n, unidirectional=1)


@group
def ms_rotary_embedding():
    r = rng("rotary")
    cos, sin = rotary_tables(16, 4)
    x3, x4 = floats(r, 2, 3, 16), floats(r, 2, 2, 3, 8)
    at = np.array([[0, 1, 2], [5, 6, 7]], np.int64)
    first = np.array([4], np.int64)
    for word, more in (("", {}), ("_interleaved", {"interleaved": 1})):
        case(f"ms_rotary_rank_3{word}", "RotaryEmbedding", [x3, at, cos, sin], domain=MS, **more)
        case(f"ms_rotary_rank_4{word}", "RotaryEmbedding", [x4, at, cos, sin], domain=MS, **more)
        case(f"ms_rotary_offset{word}", "RotaryEmbedding", [x4, first, cos, sin], domain=MS, **more)
    half = [Weight(t.value[:, :2].copy()) for t in (cos, sin)]
    case("ms_rotary_part", "RotaryEmbedding", [x4, at, *half], domain=MS, num_heads=2, rotary_embedding_dim=4)
    case("ms_rotary_part_rank_3", "RotaryEmbedding", [x3, at, *half], domain=MS, num_heads=2, rotary_embedding_dim=4)
    case("ms_rotary_half", "RotaryEmbedding", [x4.astype(np.float16), at] + [Weight(t.value.astype(np.float16)) for t in
                                                                              (cos, sin)], domain=MS)


# ---- com.microsoft: normalisation and activations ----


@group
def ms_normalisation():
    r = rng("normalisation")
    x, skip = floats(r, 2, 3, 8), floats(r, 2, 3, 8)
    gamma, beta, bias = Weight(floats(r, 8)), Weight(floats(r, 8)), Weight(floats(r, 8))
    for word, more in (("", []), ("_bias", [bias])):
        case(f"ms_skip_layer_norm{word}", "SkipLayerNormalization", [x, skip, gamma, beta] + more, domain=MS, epsilon=1e-5)
        case(f"ms_skip_layer_norm_sum{word}", "SkipLayerNormalization", [x, skip, gamma, beta] + more, ["y", "", "", "sum"],
             domain=MS, epsilon=1e-5)
        case(f"ms_skip_rms_norm{word}", "SkipSimplifiedLayerNormalization", [x, skip, gamma] + more, domain=MS, epsilon=1e-5)
        case(f"ms_skip_rms_norm_sum{word}", "SkipSimplifiedLayerNormalization", [x, skip, gamma] + more,
             ["y", "", "", "sum"], domain=MS, epsilon=1e-5)
    case("ms_skip_layer_norm_no_beta", "SkipLayerNormalization", [x, skip, gamma], domain=MS)
    case("ms_skip_layer_norm_broadcast", "SkipLayerNormalization", [x, skip[:1], gamma, beta], domain=MS)
    case("ms_skip_layer_norm_broadcast_rows", "SkipLayerNormalization", [x, skip[0], gamma, beta], domain=MS)
    case("ms_skip_rms_norm_rank_2", "SkipSimplifiedLayerNormalization", [x[0], skip[0], gamma], domain=MS)
    case("simplified_layer_norm", "SimplifiedLayerNormalization", [x, gamma], axis=-1, epsilon=1e-5)
    case("simplified_layer_norm_half", "SimplifiedLayerNormalization", [x.astype(np.float16), Weight(gamma.value.astype(np.float16))],
         axis=-1, epsilon=1e-5)
    case("simplified_layer_norm_axis", "SimplifiedLayerNormalization", [x, Weight(floats(r, 3, 8))], axis=1)
    words, positions, segments = Weight(floats(r, 9, 8)), Weight(floats(r, 6, 8)), Weight(floats(r, 2, 8))
    ids = np.array([[1, 4, 8], [0, 2, 2]], np.int32)
    kinds, mask = np.array([[0, 0, 1], [1, 0, 1]], np.int32), np.array([[1, 1, 0], [1, 1, 1]], np.int32)
    at = np.array([[2, 1, 0], [3, 4, 5]], np.int32)
    names = ["y", "lengths"]
    case("ms_embed_layer_norm", "EmbedLayerNormalization", [ids, kinds, words, positions, segments, gamma, beta, mask], names,
         domain=MS)
    case("ms_embed_layer_norm_no_segment", "EmbedLayerNormalization", [ids, None, words, positions, None, gamma, beta], names,
         domain=MS)
    case("ms_embed_layer_norm_positions", "EmbedLayerNormalization",
         [ids, kinds, words, positions, segments, gamma, beta, mask, at], names, domain=MS)
    case("ms_embed_layer_norm_sum", "EmbedLayerNormalization", [ids, kinds, words, positions, segments, gamma, beta, mask],
         ["y", "lengths", "sum"], domain=MS)


@group
def ms_activations():
    r = rng("activations")
    x, bias = floats(r, 2, 3, 6, scale=3), Weight(floats(r, 6))
    case("ms_gelu", "Gelu", [x], domain=MS)
    case("ms_bias_gelu", "BiasGelu", [x, bias], domain=MS)
    case("ms_fast_gelu", "FastGelu", [x], domain=MS)
    case("ms_fast_gelu_bias", "FastGelu", [x, bias], domain=MS)
    case("ms_quick_gelu", "QuickGelu", [x], domain=MS)
    case("ms_quick_gelu_alpha", "QuickGelu", [x], domain=MS, alpha=0.8)
    image, w = floats(r, 1, 3, 6, 6), Weight(floats(r, 4, 3, 3, 3))
    b = Weight(floats(r, 4))
    for f, params in [("Relu", []), ("Sigmoid", []), ("Tanh", []), ("LeakyRelu", [0.2]), ("Clip", [-0.5, 1.0]),
                      ("HardSigmoid", [0.2, 0.5])]:
        more = {"activation_params": params} if params else {}
        case(f"ms_fused_conv_{f.lower()}", "FusedConv", [image, w, b], domain=MS, activation=f, pads=[1, 1, 1, 1],
             strides=[2, 2], **more)
    case("ms_fused_conv_sum", "FusedConv", [image, w, b, floats(r, 1, 4, 6, 6)], domain=MS, activation="Relu",
         pads=[1, 1, 1, 1])
    for f, more in [("Relu", {}), ("LeakyRelu", {"activation_alpha": 0.2}), ("Tanh", {}), ("Sigmoid", {})]:
        case(f"ms_fused_gemm_{f.lower()}", "FusedGemm", [floats(r, 3, 4), Weight(floats(r, 5, 4)), Weight(floats(r, 5))],
             domain=MS, activation=f, transB=1, alpha=0.5, beta=2.0, **more)
    a3, b3 = floats(r, 2, 3, 4), floats(r, 2, 4, 5)
    case("ms_fused_matmul", "FusedMatMul", [a3, b3], domain=MS, alpha=0.25)
    case("ms_fused_matmul_both", "FusedMatMul", [a3.transpose(0, 2, 1).copy(), b3.transpose(0, 2, 1).copy()], domain=MS,
         transA=1, transB=1)
    case("ms_fused_matmul_broadcast", "FusedMatMul", [a3, b3[0].T.copy()], domain=MS, transB=1, alpha=2.0)
    case("ms_fused_matmul_vector", "FusedMatMul", [a3, b3[0, :, 0].copy()], domain=MS)
    case("ms_fused_matmul_batch_a", "FusedMatMul", [floats(r, 3, 2, 4), b3], domain=MS, transBatchA=1)
    case("ms_fused_matmul_batch_b", "FusedMatMul", [a3, floats(r, 4, 2, 5)], domain=MS, transBatchB=1)
    case("ms_fused_matmul_batch_b_swapped", "FusedMatMul", [a3, floats(r, 5, 2, 4)], domain=MS, transBatchB=1, transB=1)


# ---- com.microsoft: packed weights and experts ----


def packed(codes, bits):
    """Codes along the last dimension as bytes, low bits first; rows are filled up with zeros."""
    per_byte = 8 // bits
    codes = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, -codes.shape[-1] % per_byte)])
    codes = codes.reshape(*codes.shape[:-1], -1, per_byte).astype(np.uint32)
    return (codes << (np.arange(per_byte, dtype=np.uint32) * bits)).sum(-1).astype(np.uint8)


@group
def ms_matmul_nbits():
    n, k = 6, 40
    for bits in (2, 4, 8):
        for block in (16, 32):
            r = rng(f"nbits_{bits}_{block}")
            blocks = -(-k // block)
            codes = r.integers(0, 1 << bits, (n, blocks, block))
            w = Weight(packed(codes, bits))
            scales = Weight(np.abs(floats(r, n, blocks, scale=0.1)))
            zeros = r.integers(0, 1 << bits, (n, blocks))
            x, bias = floats(r, 2, 3, k), Weight(floats(r, n))
            common = dict(domain=MS, bits=bits, block_size=block, N=n, K=k)
            name = f"ms_matmul_{bits}bits_{block}"
            case(name, "MatMulNBits", [x, w, scales], **common)
            case(name + "_zeros", "MatMulNBits", [x, w, scales, Weight(packed(zeros, bits))], **common)
            if block == 16:
                case(name + "_bias", "MatMulNBits", [x[0], w, scales, None, None, bias], **common)
                if bits == 4:
                    case(name + "_float_zeros", "MatMulNBits", [x, w, scales, Weight(zeros.astype(np.float32))], **common)
                    groups = Weight(r.permutation(np.arange(k) // block).astype(np.int32))
                    case(name + "_groups", "MatMulNBits", [x, w, scales, None, groups], **common)
                    # ONNX Runtime passes over packed zero points where there are groups.
                    dense = codes.reshape(n, -1)[:, :k].astype(np.float32) - zeros[:, groups.value]
                    case(name + "_groups_zeros", "MatMulNBits", [x, w, scales, Weight(packed(zeros, bits)), groups],
                         answers=[(x @ (dense * scales.value[:, groups.value]).T).astype(np.float32)], **common)
                    half = [x.astype(np.float16), w, Weight(scales.value.astype(np.float16))]
                    case(name + "_half", "MatMulNBits", half, **common)


def rounding(x, codes, zeros, scales, block):
    """How far rows that are rounded to 8 bits per block may be from exact ones at most."""
    n, k = codes.shape[0], x.shape[-1]
    w = (codes - zeros[..., None]) * scales[..., None]
    w = np.abs(w.reshape(n, -1)[:, :k])
    pad = [(0, 0), (0, -k % block)]
    weight = np.pad(w, pad).reshape(n, -1, block).sum(-1)
    largest = np.abs(np.pad(x.reshape(-1, k), pad)).reshape(-1, weight.shape[1], block).max(-1)
    return float((largest @ weight.T).max() / 254)


@group
def ms_matmul_nbits_rounded():
    """`accuracy_level` 4. Rows of whole steps are the same after they were rounded to 8 bits per block; other results are within
    twice of what one rounding does, as either side may round."""
    n, k, bits = 19, 200, 4
    for block in (16, 32, 64, 128):
        r = rng(f"nbits_level4_{block}")
        blocks = -(-k // block)
        codes = r.integers(0, 1 << bits, (n, blocks, block))
        scales, zeros = np.abs(floats(r, n, blocks, scale=0.1)), r.integers(0, 1 << bits, (n, blocks))
        w, packed_zeros, bias = Weight(packed(codes, bits)), Weight(packed(zeros, bits)), Weight(floats(r, n))
        common = dict(domain=MS, bits=bits, block_size=block, N=n, K=k, accuracy_level=4)
        for name, rows, more in (("", 1, []), ("_zeros", 9, [packed_zeros]), ("_bias", 40, [packed_zeros, None, bias])):
            steps = r.integers(-126, 127, (rows, k))
            steps[:, ::block] = 127
            x = (steps / 64).astype(np.float32)
            case(f"ms_matmul_level4_{block}{name}", "MatMulNBits", [x, w, Weight(scales), *more], **common)
        x = floats(r, 9, k)
        case(f"ms_matmul_level4_{block}_rounded", "MatMulNBits", [x, w, Weight(scales), packed_zeros],
             within=(0.0, 2 * rounding(x, codes, zeros, scales, block)), **common)


@group
def ms_gather_block_quantized():
    rows, k, block = 5, 32, 16
    ids = np.array([[1, -1, 4], [0, 2, 2]], np.int64)
    for bits in (2, 4, 8):
        r = rng(f"gather_{bits}")
        codes = r.integers(0, 1 << bits, (rows, k))
        data = Weight(packed(codes, bits))
        scales = Weight(np.abs(floats(r, rows, k // block, scale=0.1)))
        zeros = Weight(packed(r.integers(0, 1 << bits, (rows, k // block)), bits))
        common = dict(domain=MS, bits=bits, block_size=block, gather_axis=0, quantize_axis=1)
        case(f"ms_gather_{bits}bits", "GatherBlockQuantized", [data, ids, scales], **common)
        case(f"ms_gather_{bits}bits_zeros", "GatherBlockQuantized", [data, ids.astype(np.int32), scales, zeros], **common)
        half = Weight(scales.value.astype(np.float16))
        case(f"ms_gather_{bits}bits_half", "GatherBlockQuantized", [data, ids, half], **common)


@group
def ms_moe():
    experts, h, inner, tokens = 4, 32, 32, 5

    def dense(name, activation, k=2, third=False, bias=True, fused=0, **attributes):
        r = rng("moe_" + name)
        rows = inner * (2 if fused else 1)
        x, logits = floats(r, tokens, h), floats(r, tokens, experts, scale=2)
        operands = [x, logits, Weight(floats(r, experts, rows, h, scale=0.2)), Weight(floats(r, experts, rows)) if bias else None,
                    Weight(floats(r, experts, h, inner, scale=0.2)), Weight(floats(r, experts, h)) if bias else None]
        if third:
            operands += [Weight(floats(r, experts, inner, h, scale=0.2)), Weight(floats(r, experts, inner)) if bias else None]
        while operands[-1] is None:
            operands.pop()
        case("ms_moe_" + name, "MoE", operands, domain=MS, k=k, activation_type=activation, swiglu_fusion=fused, **attributes)

    h, inner = 8, 6
    dense("relu", "relu", k=1)
    dense("gelu", "gelu", normalize_routing_weights=1)
    dense("silu", "silu", bias=False)
    dense("identity", "identity")
    dense("swiglu_interleaved", "swiglu", fused=1, normalize_routing_weights=1, activation_alpha=1.702, activation_beta=1.0,
          swiglu_limit=1.0)
    dense("swiglu_plain", "swiglu", fused=1, bias=False)
    h, inner = 32, 32

    def quantised(name, bits, block=0, activation="relu", fused=0, zeros=False, bias=False, router=False, k=2, **attributes):
        r = rng("qmoe_" + name)
        rows = inner * (2 if fused else 1)

        def layer(n, width):
            codes = r.integers(0, 1 << bits, (experts, n, width))
            scale_dims = (experts, n, width // block) if block else (experts, n)
            scales = Weight(np.abs(floats(r, *scale_dims, scale=0.03)) + 0.01)
            if not zeros:
                zero = None
            elif block:
                zero_codes = r.integers(0, 1 << bits, (experts, n, width // block))
                zero = Weight(packed(zero_codes, bits))
            else:
                zero_codes = r.integers(0, 1 << bits, (experts, n))
                zero = Weight(packed(zero_codes, bits))
            middle = zero_codes if zeros else np.full(scales.value.shape, 1 << (bits - 1))
            wide = [np.repeat(t.reshape(experts, n, -1), block or width, axis=2) for t in (middle, scales.value)]
            dense = Weight(((codes - wide[0]) * wide[1]).astype(np.float32))
            return Weight(packed(codes, bits)), scales, zero, dense

        (w1, s1, z1, d1), (w2, s2, z2, d2) = layer(rows, h), layer(h, inner)
        x, logits = floats(r, tokens, h), floats(r, tokens, experts, scale=2)
        b1, b2 = (Weight(floats(r, experts, rows)), Weight(floats(r, experts, h))) if bias else (None, None)
        operands = [x, logits, w1, s1, b1, w2, s2, b2, None, None, None, z1, z2, None]
        operands.append(np.abs(floats(r, tokens, experts)) if router else None)
        while operands[-1] is None:
            operands.pop()
        if block:
            attributes["block_size"] = block
        if block and bits == 8:
            # ONNX Runtime rounds the activations to eight bits here; its weights are those of the dense operator.
            more = dict(k=k, activation_type=activation, normalize_routing_weights=1)
            attributes["like"] = ("MoE", [x, logits, d1, None, d2], more)
        case("ms_qmoe_" + name, "QMoE", operands, domain=MS, k=k, expert_weight_bits=bits, activation_type=activation,
             swiglu_fusion=fused, weights_prepacked=0, **attributes)

    for bits in (2, 4, 8):
        quantised(f"{bits}bits_rows", bits)
        quantised(f"{bits}bits_rows_zeros", bits, zeros=True)
        quantised(f"{bits}bits_blocks", bits, block=16)
        quantised(f"{bits}bits_blocks_zeros", bits, block=16, zeros=True)
    quantised("4bits_bias", 4, bias=True, normalize_routing_weights=1)
    quantised("4bits_swiglu", 4, activation="swiglu", fused=1, block=16, bias=True, normalize_routing_weights=1,
              activation_alpha=1.702, activation_beta=1.0, swiglu_limit=7.0)
    quantised("4bits_gelu", 4, activation="gelu", k=1)
    quantised("4bits_silu", 4, activation="silu")
    quantised("4bits_router_weights", 4, router=True)
    quantised("4bits_router_weights_normalised", 4, router=True, normalize_routing_weights=1)


# ---- com.microsoft: eight-bit arithmetic ----


@group
def ms_quantised():
    def scalar(v, dtype=np.float32):
        return Weight(np.array(v, dtype))

    for dtype, low, high in ((np.uint8, 0, 256), (np.int8, -128, 128)):
        word = np.dtype(dtype).name
        r = rng("quantised_" + word)
        zero = 120 if dtype == np.uint8 else -5
        a, b = (r.integers(low, high, (2, 3, 8)).astype(dtype) for _ in range(2))
        small = b[0, 0]
        for op in ("QLinearAdd", "QLinearMul"):
            name = f"ms_{op.lower()}_{word}"
            case(name, op, [a, scalar(0.02), scalar(zero, dtype), b, scalar(0.03), scalar(zero + 3, dtype), scalar(0.05),
                            scalar(zero - 2, dtype)], domain=MS)
            case(name + "_broadcast", op, [a, scalar(0.02), scalar(zero, dtype), small, scalar(0.03), scalar(zero + 3, dtype),
                                           scalar(0.05), scalar(zero - 2, dtype)], domain=MS)
        case(f"ms_qlinearsigmoid_{word}", "QLinearSigmoid", [a, scalar(0.05), scalar(zero, dtype), scalar(1 / 256),
                                                             scalar(low, dtype)], domain=MS)
        case(f"ms_qlinearleakyrelu_{word}", "QLinearLeakyRelu", [a, scalar(0.05), scalar(zero, dtype), scalar(0.04),
                                                                 scalar(zero, dtype)], domain=MS, alpha=0.2)
        case(f"ms_qlinearsoftmax_{word}", "QLinearSoftmax", [a, scalar(0.05), scalar(zero, dtype), scalar(1 / 256),
                                                             scalar(low, dtype)], domain=MS, axis=-1, opset=21)
        image = r.integers(low, high, (1, 3, 4, 4)).astype(dtype)
        case(f"ms_qlinearglobalaveragepool_{word}", "QLinearGlobalAveragePool",
             [image, scalar(0.05), scalar(zero, dtype), scalar(0.03), scalar(zero, dtype)], domain=MS)
        case(f"ms_qlinearglobalaveragepool_last_{word}", "QLinearGlobalAveragePool",
             [image.transpose(0, 2, 3, 1).copy(), scalar(0.05), scalar(zero, dtype), scalar(0.03), scalar(zero, dtype)],
             domain=MS, channels_last=1)
        case(f"ms_qlinearaveragepool_{word}", "QLinearAveragePool",
             [image, scalar(0.05), scalar(zero, dtype), scalar(0.0317), scalar(zero, dtype)], domain=MS, kernel_shape=[2, 2],
             strides=[1, 1], pads=[1, 1, 0, 0])
        case(f"ms_qlinearconcat_{word}", "QLinearConcat",
             [scalar(0.05), scalar(zero, dtype), a, scalar(0.02), scalar(zero, dtype), b, scalar(0.06), scalar(zero + 1, dtype)],
             domain=MS, axis=1)
        mean = ((a.astype(np.float32) - zero) * np.float32(0.05)).mean(1, keepdims=True)
        mean = np.clip(np.rint(mean / np.float32(0.03)) + zero, low, high - 1).astype(dtype)
        case(f"ms_qlinearreducemean_{word}", "QLinearReduceMean",
             [a, scalar(0.05), scalar(zero, dtype), scalar(0.03), scalar(zero, dtype)], domain=MS, axes=[1], keepdims=1,
             answers=[mean])
        case(f"ms_qlinearwhere_{word}", "QLinearWhere",
             [r.random((2, 3, 8)) > 0.5, a, scalar(0.02), scalar(zero, dtype), b, scalar(0.03), scalar(zero + 3, dtype),
              scalar(0.05), scalar(zero - 2, dtype)], domain=MS)
        case(f"ms_nhwcmaxpool_{word}", "NhwcMaxPool", [image.transpose(0, 2, 3, 1).copy()], domain=MS, kernel_shape=[2, 2],
             strides=[2, 2])
        w = r.integers(-40, 40, (4, 3, 3, 3)).astype(np.int8)
        case(f"ms_qlinearconv_last_{word}", "QLinearConv",
             [image.transpose(0, 2, 3, 1).copy(), scalar(0.05), scalar(zero, dtype), Weight(w),
              Weight(np.array([0.01, 0.02, 0.03, 0.015], np.float32)), Weight(np.zeros(4, np.int8)), scalar(0.2),
              scalar(zero, dtype), Weight(r.integers(-500, 500, 4).astype(np.int32))], domain=MS, channels_last=1,
             pads=[1, 1, 1, 1])
        for wtype in (np.int8, np.uint8) if dtype == np.uint8 else (np.int8,):
            other = np.dtype(wtype).name
            wl, wh = (-60, 60) if wtype == np.int8 else (60, 200)
            wz = 0 if wtype == np.int8 else 128
            m = Weight(r.integers(wl, wh, (8, 5)).astype(wtype))
            columns = Weight(np.abs(floats(r, 5, scale=0.02)) + 0.001)
            bias = Weight(floats(r, 5))
            case(f"ms_matmulintegertofloat_{word}_{other}", "MatMulIntegerToFloat",
                 [a, m, scalar(0.02), columns, scalar(zero, dtype), Weight(np.full(5, wz, wtype)), bias], domain=MS)
            case(f"ms_matmulintegertofloat_plain_{word}_{other}", "MatMulIntegerToFloat", [a, m, scalar(0.02), scalar(0.01)],
                 domain=MS)
            case(f"ms_qgemm_{word}_{other}", "QGemm",
                 [a[0], scalar(0.02), scalar(zero, dtype), m, columns, Weight(np.full(5, wz, wtype)),
                  Weight(r.integers(-900, 900, 5).astype(np.int32)), scalar(0.3), scalar(zero, dtype)], domain=MS)
            case(f"ms_qgemm_float_{word}_{other}", "QGemm",
                 [a[0], scalar(0.02), scalar(zero, dtype), m, scalar(0.01), scalar(wz, wtype)], domain=MS, alpha=0.5)
    r = rng("dynamic")
    x = floats(r, 2, 3, 8)
    for wtype in (np.int8, np.uint8):
        other = np.dtype(wtype).name
        wl, wh, wz = (-60, 60, 0) if wtype == np.int8 else (60, 200, 128)
        m = Weight(r.integers(wl, wh, (8, 5)).astype(wtype))
        case(f"ms_dynamicquantizematmul_{other}", "DynamicQuantizeMatMul", [x, m, scalar(0.02), scalar(wz, wtype)], domain=MS)
        case(f"ms_dynamicquantizematmul_columns_{other}", "DynamicQuantizeMatMul",
             [x, m, Weight(np.abs(floats(r, 5, scale=0.02))), Weight(np.full(5, wz, wtype)), Weight(floats(r, 5))], domain=MS)


@group
def conv_integer():
    """By weights of the model, which have a kernel: some that fit one limb, some that need several; 1 to 2 dimensions, groups."""
    r = rng("conv_integer")
    for wtype, low, high, zero in ((np.int8, -128, 128, 0), (np.uint8, 0, 256, 131)):
        word = np.dtype(wtype).name
        for name, x, w, attributes in (
            ("small", (2, 3, 7, 9), (4, 3, 3, 3), {"pads": [1, 1, 1, 1]}),
            ("wide", (1, 300, 5, 4), (5, 300, 3, 3), {"strides": [2, 1]}),
            ("line", (1, 6, 20), (4, 3, 5), {"group": 2, "pads": [4, 0]}),
        ):
            data = [r.integers(0, 256, x).astype(np.uint8), Weight(r.integers(low, high, w).astype(wtype)),
                    np.array(117, np.uint8), Weight(np.array(zero, wtype))]
            case(f"conv_integer_{name}_{word}", "ConvInteger", data, **attributes)


@group
def einsum():
    """Products of matrices in disguise, in all orders of their letters, and what is none."""
    r = rng("einsum")
    size = dict(a=2, b=3, c=4, i=5, j=6, k=7, s=8, t=5)
    for equation in ("bts,bcs->bct", "bct,bcs->bts", "bij,bjk->bik", "ij,jk->ki", "ji,kj->ik", "abij,abkj->baik",
                     "bij,jk->bik", "bi,bi->b", "ij,kc->ijkc", "bij,bij->bj", "ij,jk", "aij,ajk->ik"):
        terms = equation.split("->")[0].split(",")
        case("einsum_" + equation.replace(",", "_").replace("->", "_"), "Einsum",
             [floats(r, *(size[letter] for letter in term)) for term in terms], equation=equation)
    # Dimensions of names of their own, some of one element.
    for equation, (a, b) in {"bi,bi->bi": ((3, 1), (1, 5)), "bi,bi->b": ((3, 5), (1, 1)), "bij,bij->bj": ((1, 5, 6), (3, 5, 1)),
                             "...ij,...kj->...ik": ((2, 1, 4, 6), (1, 3, 5, 6))}.items():
        names = {i: [f"D{i}{j}" for j in range(len(dims))] for i, dims in enumerate((a, b))}
        plain = equation.replace(",", "_").replace("->", "_").replace("...", "n")
        case("einsum_ones_" + plain, "Einsum", [floats(r, *a), floats(r, *b)], equation=equation, dims=names)


@group
def gathered_experts():
    """Mixtures of experts whose quantised weights are gathered for each token: what fuse-moe-gemm makes `moe_gemm_nbits` of."""
    experts, h, inner, k = 4, 32, 48, 2
    int4 = {"int4": (TensorProto.INT4, -8, 8), "uint4": (TensorProto.UINT4, 0, 16)}
    int8 = {"int8": (TensorProto.INT8, -128, 128), "uint8": (TensorProto.UINT8, 0, 256)}
    types = int4 | int8

    class Layer:
        """Nodes and constants of a model."""

        def __init__(self, name):
            self.r, self.nodes, self.constants, self.domains = rng(name), [], [], {"": 21}

        def constant(self, value, element=None):
            name = f"c{len(self.constants)}"
            value = np.asarray(value)
            if element is None:
                self.constants.append(tensor(value, name))
            else:
                self.constants.append(helper.make_tensor(name, element, value.shape, value.flatten().tolist()))
            return name

        def apply(self, op, *operands, results=1, **attributes):
            names = [f"v{len(self.nodes)}_{i}" for i in range(results)]
            self.nodes.append(helper.make_node(op, operands, names, name=f"n{len(self.nodes)}", **attributes))
            self.domains |= {attributes["domain"]: 1} if "domain" in attributes else {}
            return names[0] if results == 1 else names

        def codes(self, word, dims):
            element, low, high = types[word]
            values = self.r.integers(low, high, dims)
            return self.constant(values, element) if word in int4 else self.constant(values.astype(word))

        def scales(self, bits, *dims):
            """Of weights up to about 0.5."""
            return self.constant(((np.abs(self.r.standard_normal(dims)) + 0.5) * 0.4 / 2**bits).astype(np.float32))

    def gathered(layer, word, dims, scale_dims, zeros, ids, **attributes):
        """Gathered, then dequantised."""
        operands = [layer.codes(word, dims), layer.scales(4 if word in int4 else 8, *scale_dims)] + ([layer.codes(word, scale_dims)] if zeros else [])
        return layer.apply("DequantizeLinear", *[layer.apply("Gather", o, ids, axis=0) for o in operands], **attributes)

    def whole(layer, word, dims, scale_dims, zeros, ids, **attributes):
        """Dequantised, then gathered."""
        operands = [layer.codes(word, dims), layer.scales(4 if word in int4 else 8, *scale_dims)] + ([layer.codes(word, scale_dims)] if zeros else [])
        return layer.apply("Gather", layer.apply("DequantizeLinear", *operands, **attributes), ids, axis=0)

    def packed_rows(layer, bits, n, width, zeros, ids):
        """com.microsoft's gathering of packed rows, four or two codes to a byte."""
        operands = [layer.constant(packed(layer.r.integers(0, 1 << bits, (experts, n, width)), bits)), ids,
                    layer.scales(bits, experts, n, width // 16)]
        if zeros:
            operands.append(layer.constant(packed(layer.r.integers(0, 1 << bits, (experts, n, width // 16)), bits)))
        return layer.apply("GatherBlockQuantized", *operands, domain=MS, bits=bits, block_size=16, gather_axis=0, quantize_axis=2)

    def build_model(layer, name, weight, activation, flat):
        logits = layer.apply("MatMul", "x", layer.constant(floats(layer.r, h, experts)))
        scores = layer.apply("Softmax", logits, axis=-1)
        values, ids = layer.apply("TopK", scores, layer.constant([k]), results=2, axis=-1)
        share = layer.apply("Div", values, layer.apply("ReduceSum", values, layer.constant([-1]), keepdims=1))
        at = layer.apply("Reshape", ids, layer.constant([-1])) if flat else ids

        def product(x, n, width):
            """`[T, k, n]` of columns `[T, 1 or k, width, 1]`."""
            w = weight(layer, n, width, at)
            if flat:
                w = layer.apply("Reshape", w, layer.constant([-1, k, n, width]))
            return layer.apply("MatMul", w, x)

        x = layer.apply("Reshape", "x", layer.constant([-1, 1, h, 1]))
        gate, up = product(x, inner, h), product(x, inner, h)
        act = layer.apply("Mul", gate, layer.apply("Sigmoid", gate)) if activation == "silu" else layer.apply("Relu", gate)
        down = product(layer.apply("Mul", act, up), h, inner)
        rows = layer.apply("Reshape", down, layer.constant([-1, k, h]))
        weighted = layer.apply("Mul", rows, layer.apply("Unsqueeze", share, layer.constant([2])))
        layer.nodes.append(helper.make_node("ReduceSum", [weighted, layer.constant([1])], ["y"], name="sum", keepdims=0))
        info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["T", h]) for n in ("x", "y")]
        graph = helper.make_graph(layer.nodes, name, info[:1], info[1:], layer.constants)
        imports = [helper.make_opsetid(d, v) for d, v in layer.domains.items()]
        model = helper.make_model(graph, opset_imports=imports, ir_version=10)
        return model.SerializeToString(deterministic=True)

    def write(name, weight, like=None, activation="silu", flat=False, tokens=(6, 1, 4)):
        """`weight(layer, n, width, ids)` gives matrices `[.., n, width]` of the pairs; ONNX Runtime runs those of `like`."""
        if ONLY not in name:
            return
        layer = Layer(name)
        data = build_model(layer, name, weight, activation, flat)
        answers = build_model(Layer(name), name, like, activation, flat) if like else data
        options = ort.SessionOptions()
        options.log_severity_level = 4
        session = ort.InferenceSession(answers, options, providers=["CPUExecutionProvider"])
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        for number, count in enumerate(tokens):
            # The last rows are equal: some experts have no token.
            x = floats(layer.r, count, h) if number < 2 else np.repeat(floats(layer.r, 1, h), count, axis=0)
            (folder / f"test_data_set_{number}").mkdir(parents=True)
            for word, value in [("input", x), ("output", session.run(None, {"x": x})[0])]:
                file = folder / f"test_data_set_{number}" / f"{word}_0.pb"
                file.write_bytes(tensor(value).SerializeToString(deterministic=True))
        (folder / "model.onnx").write_bytes(data)

    def blocks(find, word):
        return lambda layer, n, width, ids: find(
            layer, word, (experts, n, width), (experts, n, width // 16), True, ids, axis=-1, block_size=16)

    def rows(find, word):
        return lambda layer, n, width, ids: find(
            layer, word, (experts, n, width), (experts, n, 1), False, ids, axis=-1, block_size=width)

    for word in types:
        # ONNX Runtime does not gather 4-bit integers.
        like = whole if word in int4 else None
        write(f"experts_gathered_{word}_blocks", blocks(gathered, word), like and blocks(like, word))
        write(f"experts_gathered_{word}_rows", rows(gathered, word), like and rows(like, word), activation="relu")
        write(f"experts_whole_{word}_blocks", blocks(whole, word))
        write(f"experts_whole_{word}_rows", rows(whole, word), activation="relu")
    for word in int8:
        write(f"experts_flat_{word}", lambda layer, n, width, ids: layer.apply("Transpose", gathered(
            layer, word, (experts, width, n), (experts,), False, ids, axis=0), perm=[0, 2, 1]), flat=True)
    for bits in (4, 8):
        write(f"experts_packed_{bits}bits", lambda layer, n, width, ids: packed_rows(layer, bits, n, width, False, ids))
        write(f"experts_packed_{bits}bits_zeros", lambda layer, n, width, ids: packed_rows(layer, bits, n, width, True, ids))


def main():
    for write in CASES.values():
        write()
    for name, why in REFUSED.items():
        print(f"{name}: {why}", file=sys.stderr)
    return 1 if REFUSED else 0


if __name__ == "__main__":
    sys.exit(main())
