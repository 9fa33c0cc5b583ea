package onnx

import "strings"

// locate notes the PyTorch module that a node belongs to, as far as the file tells; outer is the module of the function's call.
func (info *NodeInfo) locate(n *Node, outer string) {
	info.Scope = outer
	info.Classes = parseList(n.Metadata["pkg.torch.onnx.class_hierarchy"])
	if list := parseList(n.Metadata["pkg.torch.onnx.name_scopes"]); len(list) > 0 {
		// ['', 'layer4', 'layer4.0', 'layer4.0.conv1', 'conv3d']: the last is the operation itself.
		info.Scopes, info.Origin = list[:len(list)-1], list[len(list)-1]
	} else if s := n.Metadata["namespace"]; s != "" {
		// ": Model/layer4: torch.nn.Sequential/layer4.0: BasicBlock/conv3d: aten.conv3d.default"
		for part := range strings.SplitSeq(s, "/") {
			name, class, _ := strings.Cut(part, ": ")
			info.Scopes = append(info.Scopes, strings.TrimSuffix(name, ":"))
			if len(info.Classes) < len(info.Scopes) {
				info.Classes = append(info.Classes, class)
			}
		}
		last := len(info.Scopes) - 1
		info.Scopes, info.Origin = info.Scopes[:last], info.Scopes[last]
	} else if strings.HasPrefix(n.Name, "/") {
		// "/layer4/layer4.0/conv1/Conv": a member of a Sequential repeats the name of its parent.
		parts := strings.Split(n.Name[1:], "/")
		info.Scopes = []string{""}
		for i := 1; i < len(parts); i++ {
			info.Scopes = append(info.Scopes, joinScope(parts[:i]))
		}
	}
	if k := len(info.Scopes); k > 0 {
		info.Scope = info.Scopes[k-1]
	}
}

// joinScope makes a module path of the scopes in a node's name.
func joinScope(parts []string) string {
	var path []string
	for _, p := range parts {
		if k := len(path); k > 0 && strings.HasPrefix(p, path[k-1]+".") {
			path[k-1] = p
		} else {
			path = append(path, p)
		}
	}
	return strings.Join(path, ".")
}

// parseList reads a list of strings as Python prints it: ['a', "b's"].
func parseList(s string) []string {
	var out []string
	for i := 0; i < len(s); i++ {
		quote := s[i]
		if quote != '\'' && quote != '"' {
			continue
		}
		var word strings.Builder
		for i++; i < len(s) && s[i] != quote; i++ {
			if s[i] == '\\' && i+1 < len(s) {
				i++
			}
			word.WriteByte(s[i])
		}
		out = append(out, word.String())
	}
	return out
}
