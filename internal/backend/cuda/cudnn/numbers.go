package cudnn

// The numbers of cuDNN 9's backend API that this package uses, by the names of NVIDIA's reference without the prefix CUDNN_. They are part
// of the library's binary interface and do not change within a major version.

// kind is a cudnnBackendDescriptorType_t.
type kind int32

const (
	kindPointwise           kind = 0
	kindConvolution         kind = 1
	kindEngine              kind = 2
	kindEngineConfig        kind = 3
	kindHeuristic           kind = 4
	kindPlan                kind = 5
	kindKnobChoice          kind = 7
	kindConvolutionForward  kind = 10
	kindConvolutionBackward kind = 12
	kindPointwiseOperation  kind = 13
	kindGraph               kind = 15
	kindVariantPack         kind = 16
	kindTensor              kind = 17
	kindDevice              kind = 38 // since 9.8

)

var kindNames = map[kind]string{
	kindPointwise: "pointwise", kindConvolution: "convolution", kindEngine: "engine", kindEngineConfig: "engine configuration",
	kindHeuristic: "heuristic", kindPlan: "execution plan", kindKnobChoice: "knob choice", kindConvolutionForward: "forward operation",
	kindConvolutionBackward: "backward-data operation", kindPointwiseOperation: "pointwise operation", kindGraph: "operation graph",
	kindVariantPack: "variant pack", kindTensor: "tensor", kindDevice: "device properties",
}

// attribute is a cudnnBackendAttributeName_t.
type attribute int32

const (
	attrPointwiseMode      attribute = 0
	attrPointwisePrecision attribute = 1

	attrConvolutionCompute  attribute = 100
	attrConvolutionMode     attribute = 101
	attrConvolutionDilation attribute = 102
	attrConvolutionStride   attribute = 103
	attrConvolutionAfter    attribute = 104
	attrConvolutionBefore   attribute = 105
	attrConvolutionSpatial  attribute = 106

	attrHeuristicMode    attribute = 200
	attrHeuristicGraph   attribute = 201
	attrHeuristicResults attribute = 202
	attrHeuristicDevice  attribute = 204

	attrConfigEngine    attribute = 300
	attrConfigKnobs     attribute = 302
	attrConfigWorkspace attribute = 303

	attrPlanHandle    attribute = 400
	attrPlanConfig    attribute = 401
	attrPlanWorkspace attribute = 402
	attrPlanDevice    attribute = 407

	attrKnobType  attribute = 600
	attrKnobValue attribute = 601

	attrForwardAlpha       attribute = 700
	attrForwardBeta        attribute = 701
	attrForwardConvolution attribute = 702
	attrForwardW           attribute = 703
	attrForwardX           attribute = 704
	attrForwardY           attribute = 705

	attrBackwardAlpha       attribute = 706
	attrBackwardBeta        attribute = 707
	attrBackwardConvolution attribute = 708
	attrBackwardW           attribute = 709
	attrBackwardX           attribute = 710
	attrBackwardY           attribute = 711

	attrOperationPointwise attribute = 750
	attrOperationX         attribute = 751
	attrOperationB         attribute = 752
	attrOperationY         attribute = 753

	attrGraphHandle     attribute = 800
	attrGraphOperations attribute = 801

	attrTensorAlign   attribute = 900
	attrTensorType    attribute = 901
	attrTensorDims    attribute = 902
	attrTensorStrides attribute = 903
	attrTensorID      attribute = 906
	attrTensorVirtual attribute = 907

	attrPackIDs       attribute = 1000
	attrPackPointers  attribute = 1001
	attrPackWorkspace attribute = 1003

	attrEngineGraph     attribute = 1300
	attrEngineIndex     attribute = 1301
	attrEngineNotes     attribute = 1303
	attrEngineBehaviour attribute = 1305
	attrEngineDevice    attribute = 1307

	attrDeviceJSON attribute = 2702
)

// kindOfValue is a cudnnBackendAttributeType_t: the type of the elements of an attribute.
type kindOfValue int32

const (
	typeHandle          kindOfValue = 0
	typeDataType        kindOfValue = 1
	typeBoolean         kindOfValue = 2
	typeInt64           kindOfValue = 3
	typeFloat           kindOfValue = 4
	typePointer         kindOfValue = 6
	typeConvolutionMode kindOfValue = 7
	typeHeuristicMode   kindOfValue = 8
	typeKnobType        kindOfValue = 9
	typeNumericalNote   kindOfValue = 11
	typePointwiseMode   kindOfValue = 14
	typeDescriptor      kindOfValue = 15
	typeBehaviourNote   kindOfValue = 19
	typeChar            kindOfValue = 24
)

// Values of enumerations: cudnnDataType_t, cudnnConvolutionMode_t, cudnnPointwiseMode_t, cudnnBackendHeurMode_t.
const (
	dataFloat    int32 = 0
	dataBFloat16 int32 = 9

	crossCorrelation int32 = 1

	pointwiseAdd      int32 = 0
	pointwiseIdentity int32 = 21
	pointwiseReLU     int32 = 100

	heuristicB        int32 = 1
	heuristicFallback int32 = 2
	heuristicA        int32 = 3
)

// knobTypes is more than the number of knobs that any version has (44 in 9.19).
const knobTypes = 64

// note is a cudnnBackendNumericalNote_t: a property of an engine's arithmetic.
type note int32

const (
	noteTensorCore note = iota
	noteDownConvertInputs
	noteReducedPrecisionReduction
	noteFFT
	noteNondeterministic
	noteWinograd
	noteWinograd4
	noteWinograd6
	noteWinograd13
	noteStrictNaN
)

// behaviour is a cudnnBackendBehaviorNote_t.
type behaviour int32

const behaviourCompiles behaviour = 0 // the engine's code is compiled when its plan is made
