package driver

import "github.com/voxcam/voxcam/internal/dl"

// Intercept is asked before each call of a function of the library, by its name. Where the code that it gives is not 0, the call is not
// made, and fails with that code. It must be safe for concurrent use.
type Intercept func(call string) (code int)

// proc is a function of the library.
type proc struct {
	name      string
	at        uintptr // 0 where an optional one is missing
	intercept Intercept
}

// call calls it with integers and pointers. Pointers into Go's memory are converted in the argument list.
//
//go:uintptrescapes
func (p *proc) call(args ...uintptr) error {
	if p.at == 0 {
		return &Error{p.name, CodeNotFound, "", "the driver is too old for this call: update it"}
	}
	if p.intercept != nil {
		if err := p.intercepted(); err != nil {
			return err
		}
	}
	return p.check(dl.Call(p.at, args...))
}

// intercepted returns the failure that the interceptor injects.
func (p *proc) intercepted() error { return p.check(uintptr(p.intercept(p.name))) }

func (p *proc) check(result uintptr) error {
	if code := uint32(result); code != 0 { // the upper half of the register is undefined
		return newError(p.name, int(code))
	}
	return nil
}

// procs are the functions that the package calls, with the versions of their interfaces that it is written for.
type procs struct {
	init                        proc
	driverGetVersion            proc
	deviceGet                   proc
	deviceGetCount              proc
	deviceGetName               proc
	deviceGetUUID               proc
	deviceGetUUID2              proc
	deviceGetPCIBusID           proc
	deviceTotalMem              proc
	deviceGetAttribute          proc
	devicePrimaryCtxRetain      proc
	devicePrimaryCtxRelease     proc
	ctxGetCurrent               proc
	ctxSetCurrent               proc
	ctxSetLimit                 proc
	ctxSynchronize              proc
	memGetInfo                  proc
	memGetAllocationGranularity proc
	memAddressReserve           proc
	memAddressFree              proc
	memCreate                   proc
	memRelease                  proc
	memMap                      proc
	memUnmap                    proc
	memSetAccess                proc
	memHostAlloc                proc
	memFreeHost                 proc
	streamCreate                proc
	streamDestroy               proc
	streamSynchronize           proc
	streamWaitEvent             proc
	eventCreate                 proc
	eventDestroy                proc
	eventRecord                 proc
	eventSynchronize            proc
	eventQuery                  proc
	eventElapsedTime            proc
	memcpyHtoDAsync             proc
	memcpyDtoHAsync             proc
	memcpyDtoDAsync             proc
	memsetD8Async               proc
	memsetD32Async              proc
	moduleLoadDataEx            proc
	moduleUnload                proc
	moduleGetFunction           proc
	funcGetAttribute            proc
	funcSetAttribute            proc
	funcGetParamInfo            proc
	occupancyMaxActiveBlocks    proc
	launchKernel                proc
	streamBeginCapture          proc
	streamEndCapture            proc
	graphInstantiate            proc
	graphLaunch                 proc
	graphDestroy                proc
	graphExecDestroy            proc
}

// table names the functions; the optional ones are missing in drivers that are old but good enough.
func (p *procs) table() []procEntry {
	return []procEntry{
		{"cuInit", &p.init, false},
		{"cuDriverGetVersion", &p.driverGetVersion, false},
		{"cuDeviceGet", &p.deviceGet, false},
		{"cuDeviceGetCount", &p.deviceGetCount, false},
		{"cuDeviceGetName", &p.deviceGetName, false},
		{"cuDeviceGetUuid", &p.deviceGetUUID, false},
		{"cuDeviceGetUuid_v2", &p.deviceGetUUID2, true},
		{"cuDeviceGetPCIBusId", &p.deviceGetPCIBusID, false},
		{"cuDeviceTotalMem_v2", &p.deviceTotalMem, false},
		{"cuDeviceGetAttribute", &p.deviceGetAttribute, false},
		{"cuDevicePrimaryCtxRetain", &p.devicePrimaryCtxRetain, false},
		{"cuDevicePrimaryCtxRelease_v2", &p.devicePrimaryCtxRelease, false},
		{"cuCtxGetCurrent", &p.ctxGetCurrent, false},
		{"cuCtxSetCurrent", &p.ctxSetCurrent, false},
		{"cuCtxSetLimit", &p.ctxSetLimit, false},
		{"cuCtxSynchronize", &p.ctxSynchronize, false},
		{"cuMemGetInfo_v2", &p.memGetInfo, false},
		{"cuMemGetAllocationGranularity", &p.memGetAllocationGranularity, false},
		{"cuMemAddressReserve", &p.memAddressReserve, false},
		{"cuMemAddressFree", &p.memAddressFree, false},
		{"cuMemCreate", &p.memCreate, false},
		{"cuMemRelease", &p.memRelease, false},
		{"cuMemMap", &p.memMap, false},
		{"cuMemUnmap", &p.memUnmap, false},
		{"cuMemSetAccess", &p.memSetAccess, false},
		{"cuMemHostAlloc", &p.memHostAlloc, false},
		{"cuMemFreeHost", &p.memFreeHost, false},
		{"cuStreamCreate", &p.streamCreate, false},
		{"cuStreamDestroy_v2", &p.streamDestroy, false},
		{"cuStreamSynchronize", &p.streamSynchronize, false},
		{"cuStreamWaitEvent", &p.streamWaitEvent, false},
		{"cuEventCreate", &p.eventCreate, false},
		{"cuEventDestroy_v2", &p.eventDestroy, false},
		{"cuEventRecord", &p.eventRecord, false},
		{"cuEventSynchronize", &p.eventSynchronize, false},
		{"cuEventQuery", &p.eventQuery, false},
		{"cuEventElapsedTime", &p.eventElapsedTime, false},
		{"cuMemcpyHtoDAsync_v2", &p.memcpyHtoDAsync, false},
		{"cuMemcpyDtoHAsync_v2", &p.memcpyDtoHAsync, false},
		{"cuMemcpyDtoDAsync_v2", &p.memcpyDtoDAsync, false},
		{"cuMemsetD8Async", &p.memsetD8Async, false},
		{"cuMemsetD32Async", &p.memsetD32Async, false},
		{"cuModuleLoadDataEx", &p.moduleLoadDataEx, false},
		{"cuModuleUnload", &p.moduleUnload, false},
		{"cuModuleGetFunction", &p.moduleGetFunction, false},
		{"cuFuncGetAttribute", &p.funcGetAttribute, false},
		{"cuFuncSetAttribute", &p.funcSetAttribute, false},
		{"cuFuncGetParamInfo", &p.funcGetParamInfo, true},
		{"cuOccupancyMaxActiveBlocksPerMultiprocessor", &p.occupancyMaxActiveBlocks, false},
		{"cuLaunchKernel", &p.launchKernel, false},
		{"cuStreamBeginCapture_v2", &p.streamBeginCapture, false},
		{"cuStreamEndCapture", &p.streamEndCapture, false},
		{"cuGraphInstantiateWithFlags", &p.graphInstantiate, false},
		{"cuGraphLaunch", &p.graphLaunch, false},
		{"cuGraphDestroy", &p.graphDestroy, false},
		{"cuGraphExecDestroy", &p.graphExecDestroy, false},
	}
}

type procEntry struct {
	name     string
	to       *proc
	optional bool
}

func (p *procs) bind(lib *dl.SharedObject, intercept Intercept) error {
	var symbols []dl.Symbol
	for _, e := range p.table() {
		e.to.name, e.to.intercept = e.name, intercept
		symbols = append(symbols, dl.Symbol{Name: e.name, To: &e.to.at, Optional: e.optional})
	}
	return dl.Bind(lib, symbols)
}
