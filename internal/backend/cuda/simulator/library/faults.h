// Calls of the driver that fail on purpose.
#pragma once

#include <stdlib.h>
#include <string.h>
#include <map>
#include <string>
#include <vector>

namespace simulator {

// Fault says what happens at a later call.
struct Fault {
    enum Kind { fail, lose, hang, nothing };
    Kind kind = nothing;
    std::string call; // empty: any
    unsigned long long left = 0;
    unsigned long long again = 0; // calls from one time to the next; 0: it happens once
    int code = 0;
};

// Faults counts calls, and knows what is to happen at which.
class Faults {
public:
    // add reads one or more faults with commas between them:
    //
    //	NAME:n:code   the n-th call of a function gives that error
    //	any:n:code    the n-th call of any function does
    //	every:n:code  each n-th call does
    //	lose:n[:code] the n-th call finds the device lost
    //	hang:NAME:n   the n-th call of a function, or of any, does not return
    //
    // It replaces those of the same kind and call; an n of 0 just takes them back. It gives false for a text of another form.
    bool add(const char* text) {
        std::vector<Fault> all;
        for (const char* end = text; *text; text = *end ? end + 1 : end) {
            end = strchrnul(text, ',');
            Fault f;
            if (!parse(std::string(text, end), &f)) return false;
            all.push_back(f);
        }
        for (const Fault& f : all) {
            for (size_t i = 0; i < faults.size();) {
                const Fault& g = faults[i];
                bool same = f.kind == g.kind && f.call == g.call && !f.again == !g.again;
                if (same) faults.erase(faults.begin() + i);
                else i++;
            }
        }
        for (Fault& f : all) {
            if (f.left) faults.push_back(f);
        }
        return true;
    }

    void clear() {
        faults.clear();
        total = 0;
        counts.clear();
    }

    // next counts a call, by the text of its name, which is one for each function, and says what is to happen at it.
    Fault next(const char* call) {
        total++;
        counts[call]++;
        Fault due;
        for (size_t i = 0; i < faults.size();) {
            Fault& f = faults[i];
            bool now = (f.call.empty() || f.call == call) && --f.left == 0;
            if (now && due.kind == Fault::nothing) due = f;
            if (now && f.again) f.left = f.again;
            if (now && !f.again) faults.erase(faults.begin() + i);
            else i++;
        }
        return due;
    }

    // count returns the number of calls of a function, or of all.
    unsigned long long count(const std::string& call) const {
        if (call.empty()) return total;
        unsigned long long sum = 0;
        for (auto& c : counts) {
            if (call == c.first) sum += c.second;
        }
        return sum;
    }

private:
    std::vector<Fault> faults;
    unsigned long long total = 0;
    std::map<const char*, unsigned long long> counts;

    static bool number(const std::string& text, unsigned long long* to) {
        char* end;
        *to = strtoull(text.c_str(), &end, 10);
        return !text.empty() && text[0] >= '0' && text[0] <= '9' && !*end;
    }

    static bool parse(const std::string& text, Fault* f) {
        std::vector<std::string> part(1);
        for (char c : text) {
            if (c == ':') part.emplace_back();
            else part.back() += c;
        }
        unsigned long long code = 719;
        if (part[0] == "hang") {
            f->kind = Fault::hang;
            if (part.size() != 3 || !number(part[2], &f->left)) return false;
            f->call = part[1];
        } else if (part[0] == "lose") {
            f->kind = Fault::lose;
            if (part.size() < 2 || part.size() > 3 || !number(part[1], &f->left) || (part.size() == 3 && !number(part[2], &code))) return false;
        } else {
            f->kind = Fault::fail;
            if (part.size() != 3 || !number(part[1], &f->left) || !number(part[2], &code)) return false;
            if (part[0] == "every") f->again = f->left ? f->left : 1;
            f->call = part[0] == "every" ? "" : part[0];
        }
        if (f->call == "any") f->call = "";
        f->code = (int)code;
        return true;
    }
};

} // namespace simulator
